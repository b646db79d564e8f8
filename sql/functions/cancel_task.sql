-- waiting or fresh -> cancelled, at once.
create or replace function cancel_task(id bigint) returns void language plpgsql as $$
declare
    task tasks := require_task(cancel_task.id);
begin
    if task.status not in ('waiting', 'fresh') then
        raise exception 'Task % can''t be cancelled: it is %.', task.id, task.status using
            errcode = 'PF003', detail = 'Only a task that is waiting or fresh can be cancelled.';
    end if;
    update tasks t set status = 'cancelled', updated_on = now() where t.id = task.id;
end $$;
