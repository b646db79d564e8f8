-- name: insert_task
select id, created from insert_task(
    %(type)s, %(data)s, %(created_by)s, priority => %(priority)s, run_at => coalesce(%(run_at)s, now() + %(delay)s::interval),
    max_retries => %(max_retries)s, retry_delay => %(retry_delay)s, unique_key => %(unique_key)s,
    timeout => %(timeout)s, node => %(node)s)
-- name: insert_allowed_tasks
call insert_allowed_tasks($1, $2, null, null, null, null)
-- name: create_task
select create_task(
    %(type)s, %(data)s, %(created_by)s, priority => %(priority)s, run_at => coalesce(%(run_at)s, now() + %(delay)s::interval),
    max_retries => %(max_retries)s, retry_delay => %(retry_delay)s, unique_key => %(unique_key)s,
    timeout => %(timeout)s, node => %(node)s)
-- name: create_tasks
-- As arrays, and the texts in binary: psycopg escapes every text of an array otherwise (3.4 instead of 0.3 us a task).
select array(select create_tasks(
    %(type)s, %(data)b::text[], %(created_by)s, %(priority)s, %(timeout)s, %(node)s))
-- name: reserve_tasks
select reserve_tasks(%(type)s, %(quantity)s, %(created_by)s, %(timeout)s, %(node)s)
-- name: copy_tasks
copy tasks (id, data, type, created_by, priority, timeout, node) from stdin (format binary)
-- name: ring_bell
select ring_bell(%(ids)s)
-- name: create_for_all_nodes
select create_for_all_nodes(
    %(type)s, %(data)s, %(created_by)s, priority => %(priority)s, max_retries => %(max_retries)s,
    retry_delay => %(retry_delay)s, timeout => %(timeout)s)
-- name: notify_tasks
-- Where nobody sleeps, nobody is told. Runs in a transaction of its own: what a crash can lose of it is a hint.
select tell_sleepers(%(ids)s)
-- name: unclaimed
select unclaimed_tasks(%(ids)s)
-- name: get
select t.*, y.max_retries as type_max_retries, y.retry_delay as type_retry_delay, y.timeout as type_timeout,
       case when t.status = 'started' and t.eta is not null
            then greatest(0, extract(epoch from t.eta - now()))::double precision end as seconds_left
from tasks t left join task_types y on y.name = t.type where t.id = %(id)s
-- name: list
select t.*, y.max_retries as type_max_retries, y.retry_delay as type_retry_delay, y.timeout as type_timeout,
       case when t.status = 'started' and t.eta is not null
            then greatest(0, extract(epoch from t.eta - now()))::double precision end as seconds_left
from tasks t left join task_types y on y.name = t.type
where (%(created_by)s::bigint is null or (t.created_by = %(created_by)s and (t.created_by > 0 or %(created_by)s <= 0)))
  and (%(status)s::text[] is null or t.status = any (%(status)s))
  and (%(type)s::text[] is null or t.type = any (%(type)s))
  and (%(parent)s::bigint is null or t.parent = %(parent)s)
order by {sort} {direction} nulls last, t.id {direction}
offset %(offset)s limit %(limit)s
-- name: count
select count(*) from tasks t
where (%(created_by)s::bigint is null or (t.created_by = %(created_by)s and (t.created_by > 0 or %(created_by)s <= 0)))
  and (%(status)s::text[] is null or t.status = any (%(status)s))
  and (%(type)s::text[] is null or t.type = any (%(type)s))
  and (%(parent)s::bigint is null or t.parent = %(parent)s)
-- name: states
select t.id, t.type, t.status, t.worker, t.attempt, t.failure_count, t.run_at, t.progress, t.current_step,
       case when t.status = 'started' and t.eta is not null
            then greatest(0, extract(epoch from t.eta - now()))::double precision end as seconds_left,
       case when t.status <> 'started' then t.error end as error
from tasks t where t.id = any (%(ids)s) order by t.id
-- name: unfinished
-- One branch for each of the indexes, so that finished tasks are never read.
(select id from tasks where status = 'fresh' and node is null and type = any (%(types)s)
 union all select id from tasks where status = 'fresh' and node is not null and type = any (%(types)s)
 union all select id from tasks where status = 'started' and type = any (%(types)s)
 union all select id from tasks where status = 'waiting' and type = any (%(types)s))
order by id limit %(limit)s
-- name: retry
select retry_task(%(id)s, %(reset_failure_count)s)
-- name: resume
select resume_task(%(id)s)
-- name: cancel
select cancel_task(%(id)s)
-- name: configure
select configure_task(%(id)s, %(max_retries)s, %(retry_delay)s)
-- name: executions
-- Every attempt, the latest first: the one in the row, then those that another followed. A task that is ready, or was
-- cancelled between attempts, has no worker, and its last attempt is in the history. While an attempt runs, its row
-- still tells the error of the one before.
select e.attempt, e.worker, h.node, e.started_at, e.ended_at, e.status, e.error, e.error_detail, e.cpu_seconds, e.peak_memory
from (
    select a.attempt, a.worker, a.started_at, a.ended_at, a.status, a.error, a.error_detail, a.cpu_seconds, a.peak_memory
    from task_attempts a where a.task_id = %(id)s
    union all
    select t.attempt, t.worker, t.started_at, case when t.status <> 'started' then t.updated_on end, t.status,
           case when t.status <> 'started' then t.error end, case when t.status <> 'started' then t.error_detail end,
           t.cpu_seconds, t.peak_memory
    from tasks t where t.id = %(id)s and t.attempt > 0 and t.worker is not null) e
left join worker_history h on h.id = e.worker
order by e.attempt desc offset %(offset)s limit %(limit)s
-- name: count_executions
select (select count(*) from task_attempts a where a.task_id = %(id)s)
     + (select count(*) from tasks t where t.id = %(id)s and t.worker is not null and t.attempt > 0)
-- name: configure_type
select configure_type(
    %(name)s, max_running => %(max_running)s, timeout => %(timeout)s, max_retries => %(max_retries)s,
    retry_delay => %(retry_delay)s, max_retry_delay => %(max_retry_delay)s, max_crashes => %(max_crashes)s)
-- name: types
select name, description, for_readers, max_running, timeout, max_retries, retry_delay, max_retry_delay, max_crashes
from task_types order by name
-- name: running
-- Not the parents of tasks for all nodes, which no worker holds.
select type, count(*) from tasks where status = 'started' and worker <> 'all nodes' group by type
