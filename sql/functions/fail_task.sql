-- started -> waiting while it has retries left, else failure; only for the attempt that holds it.
-- `error` is for the reader, `error_detail` for operators. `give_up` skips the retries, `retry_in` sets the delay.
create or replace function fail_task(
    worker text, id bigint, attempt integer, error text, error_detail text default null,
    give_up boolean default false, retry_in interval default null, out status text, out run_at timestamptz
) language plpgsql as $$
#variable_conflict use_column
begin
    update tasks t set
        failure_count = t.failure_count + 1, updated_on = now(),
        error = fail_task.error, error_detail = fail_task.error_detail,
        status = case when n.again then 'waiting' else 'failure' end,
        worker = case when not n.again then t.worker end,
        started_at = case when not n.again then t.started_at end,
        run_at = case when n.again then now() + n.pause else t.run_at end
    from (select c.id, not fail_task.give_up and c.failure_count < coalesce(c.max_retries, y.max_retries, 0) as again,
                 least(interval '365 days', coalesce(
                     fail_task.retry_in,
                     retry_backoff(coalesce(c.retry_delay, y.retry_delay, interval '10 seconds'), c.failure_count + 1)
                 )) as pause
          from tasks c left join task_types y on y.name = c.type where c.id = fail_task.id) n
    where t.id = n.id and t.attempt = fail_task.attempt and t.worker = fail_task.worker and t.status = 'started'
    returning t.status, t.run_at into fail_task.status, fail_task.run_at;
    if not found then
        raise exception 'Task % is no longer held by % in attempt %.', fail_task.id, fail_task.worker, fail_task.attempt
            using errcode = 'PF004';
    end if;
end $$;
