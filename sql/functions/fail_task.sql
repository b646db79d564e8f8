-- started -> waiting while it has retries left, else failure; cancelled where somebody asked for that; only for the
-- attempt that holds it. `error` is for the reader, `error_detail` for operators. `give_up` skips the retries,
-- `retry_in` sets the delay. The checkpoint stays: the next attempt goes on from it. Sleepers are told of a retry, so that its
-- due time is not known to a worker alone that may be gone by then; but not a crowd of them (shared/pgfleet/crowd.py): waking all of it
-- is dear, and some of its polls, which they share, comes in time.
create or replace function fail_task(
    worker text, id bigint, attempt integer, error text, error_detail text default null,
    give_up boolean default false, retry_in interval default null,
    cpu_seconds double precision default null, peak_memory bigint default null, out status text, out run_at timestamptz
) language plpgsql
set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    task tasks := require_attempt(fail_task.worker, fail_task.id, fail_task.attempt);
    its task_types;
begin
    select * into its from task_types y where y.name = task.type;
    task.status := case
        when task.cancel_requested_at is not null then 'cancelled'
        when fail_task.give_up or task.failure_count >= coalesce(task.max_retries, its.max_retries, 0) then 'failure'
        else 'waiting' end;
    if task.status <> 'waiting' then
        update tasks t set
            status = task.status, updated_on = now(), eta = null,
            failure_count = t.failure_count + case when task.status = 'failure' then 1 else 0 end,
            error = fail_task.error, error_detail = fail_task.error_detail,
            cpu_seconds = fail_task.cpu_seconds, peak_memory = fail_task.peak_memory
        where t.id = task.id;
    else
        task.run_at := now() + least(interval '365 days', coalesce(fail_task.retry_in, retry_backoff(
            coalesce(task.retry_delay, its.retry_delay, interval '10 seconds'), task.failure_count + 1,
            coalesce(its.max_retry_delay, interval '1 hour'))));
        update tasks t set
            status = 'waiting', updated_on = now(), run_at = task.run_at, worker = null, started_at = null, eta = null,
            failure_count = t.failure_count + 1, error = fail_task.error, error_detail = fail_task.error_detail
        where t.id = task.id;
        task.status := 'failure';
        task.updated_on := now();
        task.error := fail_task.error;
        task.error_detail := fail_task.error_detail;
        task.cpu_seconds := fail_task.cpu_seconds;
        task.peak_memory := fail_task.peak_memory;
        perform keep_attempt(task);
        task.status := 'waiting';
        if fleet_sleepers() <= 20 then
            perform ring_bell(array[task.id]);
        end if;
    end if;
    status := task.status;
    run_at := task.run_at;
end $$;
