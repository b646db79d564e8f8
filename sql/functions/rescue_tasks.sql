-- started -> fresh, or crashed: the tasks of workers whose lease has lapsed. Any worker may call it; none leads.
-- A rescue is no failure, but has a limit of its own: a task that kills its workers must not kill them for ever. Where
-- somebody asked to cancel one, -> cancelled: its holder is fenced off. Checkpoints stay.
--
-- A worker found lapsed stays on the list for an hour as lost: a claim of its own that was under way when it lapsed
-- may commit after this look, and the next one finds it. Which also goes on where this one stops: at `quantity` tasks. A
-- rescue is one transaction on a connection that has a lease to renew, and a server's worth of dead workers may hold
-- 100,000: 20,000 at once took 27 s on a busy machine, and a rescue that is cut off has rescued nobody.
create or replace function rescue_tasks(quantity integer default 500)
returns table (id bigint, status text, worker text, type text, attempt integer)
language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    lapsed text[];
    orphan tasks;
    crashes integer;
begin
    -- The worker's row is locked by one rescuer at a time; one that renews meanwhile is seen alive.
    lapsed := array(select w.id from workers w where w.lease_expires_at < now() for update skip locked);
    if cardinality(lapsed) = 0 then
        return;
    end if;
    update workers w set lost_at = now() where w.id = any (lapsed) and w.lost_at is null;
    update worker_history h set ended_at = now() where h.id = any (lapsed) and h.ended_at is null;
    for orphan in
        select t.* from unnest(lapsed) l(worker) cross join lateral (
            select * from tasks t where t.worker = l.worker and t.status = 'started' for update skip locked) t
        limit rescue_tasks.quantity
    loop
        crashes := coalesce((select y.max_crashes from task_types y where y.name = orphan.type), 2);
        status := case when orphan.cancel_requested_at is not null then 'cancelled'
                       when orphan.crash_count >= crashes then 'crashed' else 'fresh' end;
        if status = 'fresh' then
            update tasks t set
                status = 'fresh', crash_count = t.crash_count + 1, worker = null, started_at = null, eta = null, updated_on = now()
            where t.id = orphan.id;
            orphan.status := 'lost';
            orphan.updated_on := now();
            orphan.error := null;  -- an earlier attempt's
            orphan.error_detail := null;
            perform keep_attempt(orphan);
            perform notify_tasks(array[orphan.id]);
        else
            update tasks t set
                status = rescue_tasks.status, crash_count = t.crash_count + 1, eta = null, updated_on = now(),
                error = case rescue_tasks.status when 'crashed' then format('Its workers were lost %s times.', t.crash_count + 1) end,
                error_detail = null
            where t.id = orphan.id;
        end if;
        id := orphan.id;
        worker := orphan.worker;
        type := orphan.type;
        attempt := orphan.attempt;
        return next;
    end loop;
    delete from workers w where w.lost_at < now() - interval '1 hour';
end $$;
