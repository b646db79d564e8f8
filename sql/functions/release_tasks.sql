-- started -> fresh, for tasks that their own worker gives back: no failure, no crash. With a `delay`, -> waiting. Where
-- somebody asked to cancel one, -> cancelled. Answers how many it still held.
create or replace function release_tasks(worker text, ids bigint[], attempts integer[], delay interval default '0')
returns integer
language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    of record;
    held record;
    released integer := 0;
begin
    for of in
        select r.attempt, array_agg(r.id) as ids from unnest(release_tasks.ids, release_tasks.attempts) r(id, attempt)
        group by r.attempt
    loop
        -- Locked and copied first: the update takes from the rows what the history needs.
        select array_agg(t.id) as ids, array_agg(t.started_at) as started_at, array_agg(t.called_off) as called_off,
               array_agg(t.id) filter (where not t.called_off) as free into held
        from (select t.id, t.started_at, t.cancel_requested_at is not null as called_off from tasks t
              where t.id = any (of.ids) and t.attempt = of.attempt
                and t.worker is not distinct from release_tasks.worker and t.status is not distinct from 'started'
              order by t.id for update) t;
        update tasks t set
            status = case when t.cancel_requested_at is not null then 'cancelled'
                          when release_tasks.delay > '0' then 'waiting' else 'fresh' end,
            run_at = case when t.cancel_requested_at is null and release_tasks.delay > '0'
                          then now() + release_tasks.delay else t.run_at end,
            worker = case when t.cancel_requested_at is not null then t.worker end,
            started_at = case when t.cancel_requested_at is not null then t.started_at end,
            error = case when t.cancel_requested_at is null then t.error end,
            error_detail = case when t.cancel_requested_at is null then t.error_detail end,
            eta = null, updated_on = now()
        where t.id = any (held.ids);
        insert into task_attempts (task_id, attempt, worker, started_at, ended_at, status)
        select h.id, of.attempt, release_tasks.worker, h.started_at, now(), 'released'
        from unnest(held.ids, held.started_at, held.called_off) h(id, started_at, called_off) where not h.called_off
        on conflict do nothing;  -- as in keep_attempt: of a row made by hand. A worker whose release fails would not get on
        perform notify_tasks(held.free);
        released := released + coalesce(cardinality(held.ids), 0);
    end loop;
    return released;
end $$;
