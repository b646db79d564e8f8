-- started -> fresh, for tasks that their own worker gives back: no failure, no crash. With a `delay`, -> waiting.
-- Answers how many it still held.
create or replace function release_tasks(worker text, ids bigint[], attempts integer[], delay interval default '0')
returns integer
language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
    of record;
    these bigint[];
    released bigint[] := '{}';
begin
    for of in
        select r.attempt, array_agg(r.id) as ids from unnest(release_tasks.ids, release_tasks.attempts) r(id, attempt)
        group by r.attempt
    loop
        with back as (
            update tasks t set
                status = case when release_tasks.delay > '0' then 'waiting' else 'fresh' end,
                run_at = case when release_tasks.delay > '0' then now() + release_tasks.delay else t.run_at end,
                worker = null, started_at = null, updated_on = now()
            where t.id = any (of.ids) and t.attempt = of.attempt
              and t.worker is not distinct from release_tasks.worker and t.status is not distinct from 'started'
            returning t.id)
        select array_agg(back.id) into these from back;
        released := released || coalesce(these, '{}');
    end loop;
    perform notify_tasks(released);
    return cardinality(released);
end $$;
