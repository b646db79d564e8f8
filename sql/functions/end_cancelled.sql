-- started -> cancelled, only for the attempt that holds it: its worker's word that the work has stopped, where somebody
-- asked for that. Said twice, by a worker whose connection broke at the first one's commit, it is said once.
create or replace function end_cancelled(
    worker text, id bigint, attempt integer, cpu_seconds double precision default null, peak_memory bigint default null
) returns void language plpgsql
set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    task tasks;
begin
    perform from tasks t where t.id = end_cancelled.id
      and (t.worker, t.attempt, t.status) = (end_cancelled.worker, end_cancelled.attempt, 'cancelled');
    if found then
        return;
    end if;
    task := require_attempt(end_cancelled.worker, end_cancelled.id, end_cancelled.attempt);
    if task.cancel_requested_at is null then
        raise exception 'Task % can''t end as cancelled: nobody asked for that.', task.id using
            errcode = 'PF003', hint = 'Finish, fail or release it.';
    end if;
    update tasks t set
        status = 'cancelled', updated_on = now(), eta = null, error = null, error_detail = null,
        cpu_seconds = end_cancelled.cpu_seconds, peak_memory = end_cancelled.peak_memory
    where t.id = task.id;
end $$;
