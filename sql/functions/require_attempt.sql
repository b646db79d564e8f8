-- The fence for one task: its row, locked, while (task, worker, attempt) holds it; raises PF004 where it does not.
-- Locked first and looked at then: what is true of the row that this answers stays true until the caller's commit.
create or replace function require_attempt(worker text, id bigint, attempt integer) returns tasks language plpgsql
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    task tasks;
begin
    select * into task from tasks t where t.id = require_attempt.id for update;
    if not found or task.status <> 'started' or (task.worker, task.attempt) is distinct from (worker, attempt) then
        raise exception 'Task % is no longer held by % in attempt %.', id, worker, attempt using errcode = 'PF004';
    end if;
    return task;
end $$;
