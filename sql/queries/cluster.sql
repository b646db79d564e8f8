-- name: get
select t.*, y.max_retries as type_max_retries, y.retry_delay as type_retry_delay,
       case when t.status = 'started' and t.eta is not null
            then greatest(0, extract(epoch from t.eta - now()))::double precision end as seconds_left,
       case when t.status = 'waiting' then t.run_at
            when t.schedule is not null then (
                select min(g.due_at) from triggers g where g.schedule = t.schedule and not g.unaimed and not g.paused)
       end as next_execution,
       case when t.attempt > 0 then coalesce(t.started_at, (
           select a.started_at from task_attempts a where a.task_id = t.id order by a.attempt desc limit 1))
       end as last_execution
from tasks t left join task_types y on y.name = t.type where t.id = %(id)s
-- name: list
-- Sorted by what is shown: an attempt that another is to follow has left the row and is in the history.
select t.*, y.max_retries as type_max_retries, y.retry_delay as type_retry_delay,
       case when t.status = 'started' and t.eta is not null
            then greatest(0, extract(epoch from t.eta - now()))::double precision end as seconds_left,
       case when t.status = 'waiting' then t.run_at
            when t.schedule is not null then (
                select min(g.due_at) from triggers g where g.schedule = t.schedule and not g.unaimed and not g.paused)
       end as next_execution,
       case when t.attempt > 0 then coalesce(t.started_at, (
           select a.started_at from task_attempts a where a.task_id = t.id order by a.attempt desc limit 1))
       end as last_execution,
       array_position(%(statuses)s::text[], t.status) as status_rank
from tasks t left join task_types y on y.name = t.type
where (%(status)s::text[] is null or t.status = any (%(status)s))
  and (%(type)s::text[] is null or t.type = any (%(type)s))
order by {sort} {direction} nulls last, id {direction}
offset %(offset)s limit %(limit)s
