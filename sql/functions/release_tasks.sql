-- started -> fresh, for tasks that their own worker gives back: no failure, no crash. Answers how many it still held.
create or replace function release_tasks(worker text, ids bigint[], attempts integer[]) returns integer
language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
    released bigint[];
begin
    with back as (
        update tasks t set status = 'fresh', worker = null, started_at = null, updated_on = now()
        from unnest(release_tasks.ids, release_tasks.attempts) r(id, attempt)
        where t.id = r.id and t.attempt = r.attempt
          and t.worker is not distinct from release_tasks.worker and t.status is not distinct from 'started'
        returning t.id)
    select array_agg(back.id) into released from back;
    perform notify_tasks(released);
    return coalesce(cardinality(released), 0);
end $$;
