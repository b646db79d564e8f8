-- An unfinished or failed task's retry policy, of a task for all nodes that of its parts; null leaves a value as it is.
create or replace function configure_task(id bigint, max_retries integer default null, retry_delay interval default null)
returns void language plpgsql
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    task tasks;
begin
    -- As in cancel_task: the parts first.
    perform from tasks t where t.parent = configure_task.id order by t.id for update;
    task := require_task(configure_task.id);
    if task.status in ('success', 'cancelled') then
        raise exception 'Task % can''t be configured: it is %.', task.id, task.status using errcode = 'PF003';
    end if;
    if configure_task.max_retries not between 0 and 1000 or configure_task.retry_delay not between '0' and '365 days' then
        raise exception 'max_retries must be from 0 to 1000 and retry_delay from 0 to 365 days.' using errcode = 'PF006';
    end if;
    update tasks t set
        max_retries = coalesce(configure_task.max_retries, t.max_retries),
        retry_delay = coalesce(configure_task.retry_delay, t.retry_delay),
        -- Of a task that has ended it says when, and the history keeps that.
        updated_on = case when t.status in ('failure', 'crashed') then t.updated_on else now() end
    where t.id = task.id;
    perform configure_task(p.id, configure_task.max_retries, configure_task.retry_delay) from tasks p
    where p.parent = task.id and p.status not in ('success', 'cancelled');
end $$;
