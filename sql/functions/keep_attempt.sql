-- An attempt that another will follow goes into the history, as the caller's copy of its row tells of it: `status` says how
-- it ended, `updated_on` when. Call it in the transaction that takes the attempt out of the row.
-- A row that an operator has made by hand may lack the one or be told of already: that must not keep it from going on.
create or replace function keep_attempt(task tasks) returns void language plpgsql
set enable_seqscan = off set enable_bitmapscan = off  -- also for the foreign key's own look at tasks
as $$
begin
    insert into task_attempts (task_id, attempt, worker, started_at, ended_at, status, error, error_detail, cpu_seconds, peak_memory)
    values (task.id, task.attempt, task.worker, task.started_at, coalesce(task.updated_on, now()), task.status,
            task.error, task.error_detail, task.cpu_seconds, task.peak_memory)
    on conflict do nothing;
end $$;
