-- The runs of one schedule that have ended since, the first of very many: into its numbers. The caller holds the schedule's
-- row, so nobody else takes these; a call that took a year's ends at once might be cut off, and again the next time.
create or replace function account_for_runs(schedule text) returns void language plpgsql
set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
begin
    with ended as (
             delete from run_ends e
             where e.id in (select o.id from run_ends o where o.schedule = account_for_runs.schedule order by o.id limit 1000)
             returning e.*),
         numbers as (
             select count(*) filter (where e.status = 'success') as successes,
                    count(*) filter (where e.status in ('failure', 'crashed')) as failures, max(e.ended_at) as ended_at
             from ended e),
         latest as (select e.task, e.run_at, e.status from ended e order by e.task desc, e.id desc limit 1)
    update schedules s set
        successes = s.successes + n.successes, failures = s.failures + n.failures,
        last_ended_at = greatest(s.last_ended_at, n.ended_at),
        last_task = case when l.task >= coalesce(s.last_task, 0) then l.task else s.last_task end,
        last_run_at = case when l.task >= coalesce(s.last_task, 0) then l.run_at else s.last_run_at end,
        last_status = case when l.task >= coalesce(s.last_task, 0) then l.status else s.last_status end
    from numbers n, latest l
    where s.name = account_for_runs.schedule;
end $$;
