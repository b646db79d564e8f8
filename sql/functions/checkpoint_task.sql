-- started -> started: what the next attempt goes on from, should this one end early. As durable as the caller's commit.
-- Answers whether somebody has asked to cancel the task.
create or replace function checkpoint_task(worker text, id bigint, attempt integer, checkpoint text)
returns boolean language plpgsql
set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    task tasks := require_attempt(checkpoint_task.worker, checkpoint_task.id, checkpoint_task.attempt);
begin
    update tasks t set checkpoint = checkpoint_task.checkpoint, updated_on = now() where t.id = task.id;
    return task.cancel_requested_at is not null;
end $$;
