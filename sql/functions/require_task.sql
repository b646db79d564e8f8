-- A guard: the task's row, locked; raises PF002 where there is none.
create or replace function require_task(id bigint) returns tasks language plpgsql
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    task tasks;
begin
    select * into task from tasks t where t.id = require_task.id for update;
    if not found then
        raise exception 'No task exists with ID: %', require_task.id using errcode = 'PF002';
    end if;
    return task;
end $$;
