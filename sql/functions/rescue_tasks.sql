-- started -> fresh, or crashed: the tasks of workers whose lease has lapsed. Any worker may call it; none leads.
-- A rescue is no failure, but has a limit of its own: a task that kills its workers must not kill them for ever.
--
-- A worker found lapsed stays on the list for an hour as lost: a claim of its own that was under way when it lapsed
-- may commit after this look, and the next one finds it.
create or replace function rescue_tasks() returns table (id bigint, status text, worker text)
language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    lapsed text[];
    orphan record;
begin
    -- The worker's row is locked by one rescuer at a time; one that renews meanwhile is seen alive.
    lapsed := array(select w.id from workers w where w.lease_expires_at < now() for update skip locked);
    if cardinality(lapsed) = 0 then
        return;
    end if;
    update workers w set lost_at = now() where w.id = any (lapsed) and w.lost_at is null;
    for orphan in
        select t.id, t.worker, t.crash_count >= coalesce(y.max_crashes, 2) as poison
        from unnest(lapsed) l(worker)
        cross join lateral (
            select t.id, t.worker, t.type, t.crash_count from tasks t
            where t.worker = l.worker and t.status = 'started' for update skip locked) t
        left join task_types y on y.name = t.type
    loop
        update tasks t set
            status = case when orphan.poison then 'crashed' else 'fresh' end,
            worker = case when orphan.poison then t.worker end,
            started_at = case when orphan.poison then t.started_at end,
            crash_count = t.crash_count + 1, updated_on = now(),
            error = case when orphan.poison then format('Its workers were lost %s times.', t.crash_count + 1) else t.error end
        where t.id = orphan.id
        returning t.id, t.status, orphan.worker into id, status, worker;
        if status = 'fresh' then
            perform notify_tasks(array[id]);
        end if;
        return next;
    end loop;
    delete from workers w where w.lost_at < now() - interval '1 hour';
end $$;
