-- crashed -> fresh, an operator's word that its workers were not its victims: the crashes are forgiven, and the next
-- attempt goes on from the checkpoint, where retry_task begins from nothing.
create or replace function resume_task(id bigint) returns void language plpgsql
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    task tasks := require_task(resume_task.id);
begin
    if task.status <> 'crashed' then
        raise exception 'Task % can''t be resumed: it is %.', task.id, task.status using
            errcode = 'PF003', detail = 'Only a crashed task can be resumed.', hint = 'Retry it instead.';
    end if;
    perform retry_task(task.id);
    update tasks t set checkpoint = task.checkpoint, progress = task.progress, current_step = task.current_step
    where t.id = task.id;
end $$;
