-- started -> started: how far the work is, as its attempt says; a null is "not known". Answers whether somebody has asked
-- to cancel it, so that a handler that reports learns of it even where nothing else reaches its worker.
create or replace function progress_task(
    worker text, id bigint, attempt integer, progress double precision, current_step text default null, time_left interval default null
) returns boolean language plpgsql
set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    task tasks;
begin
    if progress_task.progress not between 0 and 1 then
        raise exception 'A task''s progress must be from 0 to 1, or null, not %.', progress_task.progress using
            errcode = 'PF006';
    end if;
    task := require_attempt(progress_task.worker, progress_task.id, progress_task.attempt);
    update tasks t set
        progress = progress_task.progress, current_step = progress_task.current_step, updated_on = now(),
        eta = case when progress_task.time_left is not null then now() + least(progress_task.time_left, interval '365 days') end
    where t.id = task.id;
    return task.cancel_requested_at is not null;
end $$;
