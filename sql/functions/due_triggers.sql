-- What has come due, the earliest first, locked until the caller's transaction ends: say what becomes of each with
-- fire_trigger before that. None is answered to two callers at once, none waits for another, so there is no deadlock; what a
-- caller drops, by dying, is due again at once.
-- A trigger's schedule is locked with it, so that one caller at a time decides on overlap, by what is committed.
-- What is to run on all nodes stays due while a node's workers have missed their heartbeats and nobody has declared them lost: they
-- renew in a moment, as all do when Postgres has been away, or are rescued. Fired between the two it would go to few nodes, or none.
-- `before`: due times before it are not to be caught up (its schedule was disabled until then; null: it never was).
create or replace function due_triggers(quantity integer default 100)
returns table (
    id bigint, schedule text, kind text, every interval, fixed_delay boolean, cron text, time_zone text, due_at timestamptz,
    unaimed boolean, before timestamptz, catch_up text, catch_up_limit integer, at_present timestamptz
) language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
    if not may_fire() then
        return;
    end if;
    return query
        select t.id, t.schedule, t.kind, t.every, t.fixed_delay, t.cron, s.time_zone, t.due_at,
               t.unaimed, s.enabled_at, s.catch_up, s.catch_up_limit, now()
        from triggers t join schedules s on s.name = t.schedule
        where t.due_at <= now() and not t.paused
          and not (s.all_nodes and exists (
              select from workers w
              where s.type = any (w.types) and w.lost_at is null and w.lease_expires_at <= now() and w.orders <> 'drain'
                and not exists (
                    select from workers other
                    where other.node = w.node and s.type = any (other.types) and other.lost_at is null
                      and other.lease_expires_at > now() and other.orders <> 'drain')))
        order by t.due_at limit due_triggers.quantity
        for update of t, s skip locked;
end $$;
