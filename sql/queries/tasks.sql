-- name: insert_task
select id, created from insert_task(
    %(type)s, %(data)s, %(created_by)s, priority => %(priority)s, run_at => coalesce(%(run_at)s, now() + %(delay)s::interval),
    max_retries => %(max_retries)s, retry_delay => %(retry_delay)s, unique_key => %(unique_key)s)
-- name: insert_allowed_task
-- No row, and no insert, for a type that is unknown or not the caller's: the function takes its type from y.
select t.id, t.created
from task_types y cross join lateral insert_task(
    y.name, %(data)s, %(created_by)s, priority => %(priority)s, run_at => coalesce(%(run_at)s, now() + %(delay)s::interval),
    max_retries => %(max_retries)s, retry_delay => %(retry_delay)s, unique_key => %(unique_key)s) t
where y.name = %(type)s and (y.for_readers or %(any_type)s)
-- name: create_task
select create_task(
    %(type)s, %(data)s, %(created_by)s, priority => %(priority)s, run_at => coalesce(%(run_at)s, now() + %(delay)s::interval),
    max_retries => %(max_retries)s, retry_delay => %(retry_delay)s, unique_key => %(unique_key)s)
-- name: create_tasks
select create_tasks(%(type)s, %(data)s, %(created_by)s, %(priority)s)
-- name: notify_tasks
-- Where nobody sleeps, nobody is told. Runs in a transaction of its own: what a crash can lose of it is a hint.
select notify_tasks(%(ids)s) where fleet_sleeps()
-- name: get
select t.*, y.max_retries as type_max_retries, y.retry_delay as type_retry_delay
from tasks t left join task_types y on y.name = t.type where t.id = %(id)s
-- name: list
select t.*, y.max_retries as type_max_retries, y.retry_delay as type_retry_delay
from tasks t left join task_types y on y.name = t.type
where (%(created_by)s::bigint is null or (t.created_by = %(created_by)s and (t.created_by > 0 or %(created_by)s <= 0)))
  and (%(status)s::text[] is null or t.status = any (%(status)s))
  and (%(type)s::text[] is null or t.type = any (%(type)s))
order by {sort} {direction} nulls last, t.id {direction}
offset %(offset)s limit %(limit)s
-- name: count
select count(*) from tasks t
where (%(created_by)s::bigint is null or (t.created_by = %(created_by)s and (t.created_by > 0 or %(created_by)s <= 0)))
  and (%(status)s::text[] is null or t.status = any (%(status)s))
  and (%(type)s::text[] is null or t.type = any (%(type)s))
-- name: retry
select retry_task(%(id)s, %(reset_failure_count)s)
-- name: resume
select resume_task(%(id)s)
-- name: cancel
select cancel_task(%(id)s)
-- name: configure
select configure_task(%(id)s, %(max_retries)s, %(retry_delay)s)
-- name: types
select name, description, for_readers, max_retries, retry_delay, timeout from task_types order by name
