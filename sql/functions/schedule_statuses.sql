-- How schedules stand, in the words of tasks: as their unfinished run (started before fresh before waiting); cancelled, while
-- disabled; waiting, while a due time or an event may start them; failure, where their triggers can't be fired; else, as nothing
-- will start them by itself, as their latest run ended; waiting where they have had none. Of all of `names` at once: a call for
-- each costs several times as much.
create or replace function schedule_statuses(names text[]) returns table (name text, status text) language plpgsql stable
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
    return query
        select s.name, coalesce(
            (select t.status from tasks t
             where t.schedule = s.name and t.status in ('waiting', 'fresh', 'started')
             order by array_position('{started,fresh,waiting}', t.status) limit 1),
            case when not s.enabled then 'cancelled'
                 when s.owed <> '{}' or exists (
                     select from triggers g where g.schedule = s.name
                     and (g.event is not null or g.due_at is not null or (g.fixed_delay and g.problem is null))) then 'waiting'
                 when exists (select from triggers g where g.schedule = s.name and g.problem is not null) then 'failure' end,
            -- What is older than the last run that was accounted for is older than one that has been purged.
            (select t.status from tasks t
             where t.schedule = s.name and t.id >= coalesce(s.last_task, 0) order by t.id desc limit 1),
            s.last_status, 'waiting')
        from unnest(schedule_statuses.names) n(name) join schedules s on s.name = n.name;
end $$;
