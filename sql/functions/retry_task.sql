-- failure, crashed or cancelled -> fresh. Resets the failures only where asked; `attempt` counts on.
create or replace function retry_task(id bigint, reset_failure_count boolean default false) returns void
language plpgsql as $$
declare
    task tasks := require_task(retry_task.id);
begin
    if task.status not in ('failure', 'crashed', 'cancelled') then
        raise exception 'Task % can''t be retried: it is %.', task.id, task.status using
            errcode = 'PF003', detail = 'Only a task that is failure, crashed or cancelled can be retried.';
    end if;
    update tasks t set
        status = 'fresh', worker = null, started_at = null, run_at = null, updated_on = now(),
        result = null, error = null, error_detail = null, crash_count = 0,
        failure_count = case when retry_task.reset_failure_count then 0 else t.failure_count end
    where t.id = task.id;
    perform notify_tasks(array[task.id]);
exception when unique_violation then  -- asked of the index and not by a look, which would miss one that commits just now
    raise exception 'Task % can''t be retried: another with its unique_key is unfinished.', task.id using
        errcode = 'PF003', hint = 'Wait for the other to finish, or cancel it.';
end $$;
