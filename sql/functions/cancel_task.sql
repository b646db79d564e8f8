-- waiting or fresh -> cancelled, at once. A started task is its worker's: that is asked to stop the work, and the task is
-- cancelled when it has (end_cancelled), or has failed, given it back, or been lost; work that is done by then is a success.
-- Answers 'cancelled' or 'started'. Asking again asks again.
create or replace function cancel_task(id bigint) returns text language plpgsql
set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    task tasks;
begin
    -- A part that ends locks first itself, then its parent, and so do we.
    perform from tasks t where t.parent = cancel_task.id order by t.id for update;
    task := require_task(cancel_task.id);
    if task.status in ('waiting', 'fresh') then
        update tasks t set status = 'cancelled', updated_on = now() where t.id = task.id;
        return 'cancelled';
    elsif task.status <> 'started' then
        raise exception 'Task % can''t be cancelled: it is %.', task.id, task.status using
            errcode = 'PF003', detail = 'Only a task that is waiting, fresh or started can be cancelled.';
    end if;
    update tasks t set cancel_requested_at = coalesce(t.cancel_requested_at, now()), updated_on = now() where t.id = task.id;
    perform pg_notify('worker_orders', task.worker);
    perform cancel_task(p.id) from tasks p
    where p.parent = task.id and p.status in ('waiting', 'fresh', 'started');
    -- A parent none of whose parts runs ends with this commit (sum_up_parts).
    return (select case when bool_and(p.status <> 'started') then 'cancelled' else 'started' end
            from tasks p where p.parent = task.id);
end $$;
