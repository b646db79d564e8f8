-- failure, crashed or cancelled -> fresh, and from the beginning: the checkpoint goes too. Resets the failures only where
-- asked; `attempt` counts on. Of a task for all nodes what did not succeed begins anew, or, where there was no node when it was to
-- run, its parts are made now.
create or replace function retry_task(id bigint, reset_failure_count boolean default false) returns void
language plpgsql
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    task tasks;
    has_parts boolean;
begin
    -- As in cancel_task: the parts first.
    perform from tasks t where t.parent = retry_task.id order by t.id for update;
    task := require_task(retry_task.id);
    if task.status not in ('failure', 'crashed', 'cancelled') then
        raise exception 'Task % can''t be retried: it is %.', task.id, task.status using
            errcode = 'PF003', detail = 'Only a task that is failure, crashed or cancelled can be retried.';
    end if;
    has_parts := exists (select from tasks t where t.parent = task.id);
    if has_parts or task.worker = 'all nodes' then
        -- A parent is no work for anyone: it begins anew with its parts (sum_up_parts).
        if retry_task.reset_failure_count then
            update tasks t set failure_count = 0 where t.id = task.id;
        end if;
        if has_parts then
            perform retry_task(t.id, retry_task.reset_failure_count) from tasks t
            where t.parent = task.id and t.status in ('failure', 'crashed', 'cancelled');
        else
            perform keep_attempt(task);
            perform make_parts(task.id);
        end if;
        return;
    end if;
    if task.worker is not null and task.attempt > 0 then  -- else it was cancelled between attempts: nothing to keep
        perform keep_attempt(task);
    end if;
    update tasks t set
        status = 'fresh', worker = null, started_at = null, run_at = null, updated_on = now(), cancel_requested_at = null,
        result = null, error = null, error_detail = null, cpu_seconds = null, peak_memory = null,
        checkpoint = null, progress = null, current_step = null, eta = null, crash_count = 0,
        failure_count = case when retry_task.reset_failure_count then 0 else t.failure_count end
    where t.id = task.id;
    perform notify_tasks(array[task.id]);
exception
    when unique_violation then  -- asked of the index and not by a look, which would miss one that commits just now
        raise exception 'Task % can''t be retried: another with its unique_key is unfinished.', task.id using
            errcode = 'PF003', hint = 'Wait for the other to finish, or cancel it.';
    when sqlstate 'PF006' then  -- of make_parts
        raise exception 'Task % can''t be retried: %', task.id, sqlerrm using
            errcode = 'PF003', hint = 'Start a worker that serves it.';
end $$;
