-- name: items
-- Items: what workers keep in memory (given, as JSON), schedules, and tasks. One page of those that match, sorted as asked for
-- and then by kind, in this order; and how many match, in each row and, where the page is empty, in one of its own.
-- First the keys of the page. Of the tasks no more are put in order than the pages up to it hold, and sorted by nothing else
-- those before it are not even read twice: the primary key gives the newest. CTEs that are not materialized work out those
-- of their columns alone that are asked for. How schedules stand is worked out for all only where it decides on something.
with statuses as materialized (
    select * from schedule_statuses(case when %(judged)s then array(select s.name from schedules s) else '{{}}' end)),
few as not materialized (
    select k.*, array_position(%(statuses)s::text[], k.status) as status_rank, null::integer as nothing
    from json_to_recordset(%(kept)s::json) k(
        kind text, name text, id bigint, type text, status text, next_execution timestamptz, last_execution timestamptz,
        failure_count bigint)
    where (%(status)s::text[] is null or k.status = any (%(status)s))
      and (%(type)s::text[] is null or k.type = any (%(type)s))
    union all
    select 'schedule', s.name, null, s.type, h.status,
           least((select min(g.due_at) from triggers g where g.schedule = s.name and not g.unaimed and not g.paused),
                 (select min(r.run_at) from tasks r where r.schedule = s.name and r.status = 'waiting')),
           greatest((select r.created_at from tasks r where r.schedule = s.name order by r.id desc limit 1), s.last_run_at),
           s.failures + (select count(*) from run_ends e where e.schedule = s.name and e.status in ('failure', 'crashed')),
           array_position(%(statuses)s::text[], h.status), null
    from schedules s left join statuses h on h.name = s.name
    where (%(status)s::text[] is null or h.status = any (%(status)s))
      and (%(type)s::text[] is null or s.type = any (%(type)s))
      and (%(item)s::uuid is null or s.item_id = %(item)s) and %(task)s::bigint is null),
many as not materialized (
    select t.id, t.type, t.status, t.failure_count::bigint,
           case when t.status = 'waiting' then t.run_at end as next_execution,
           -- An attempt that another is to follow has left the row and is in the history.
           case when t.attempt > 0 then coalesce(t.started_at, (
               select a.started_at from task_attempts a where a.task_id = t.id order by a.attempt desc limit 1))
           end as last_execution,
           array_position(%(statuses)s::text[], t.status) as status_rank, null::integer as nothing
    from tasks t
    where (%(status)s::text[] is null or t.status = any (%(status)s))
      and (%(type)s::text[] is null or t.type = any (%(type)s))
      and (%(task)s::bigint is null or t.id = %(task)s) and %(item)s::uuid is null),
counted as materialized (
    select c.few + c.many as total, case when %(plain)s then greatest(%(offset)s - c.few, 0) else 0 end as passed
    from (select (select count(*) from few) as few, (select count(*) from many) as many) c),
page as (
    select row_number() over () as place, u.kind, u.name, u.id from (
        select * from (
            select f.kind, f.name, f.id, f.{sort} as value from few f
            union all
            (select 'task', null, t.id, t.{sort} from many t order by t.{sort} {direction} nulls last, t.id {direction}
             offset (select c.passed from counted c) limit %(reach)s - (select c.passed from counted c))
        ) u
        order by u.value {direction} nulls last, u.kind, u.name, u.id {direction}
        offset %(offset)s - (select c.passed from counted c) limit %(limit)s) u)
select c.total, p.kind, p.id as key, d.*
from counted c left join page p on true
left join lateral (
    select t.id, null::uuid as item_id, t.schedule, t.type, t.data, m.status, m.next_execution, m.last_execution, m.failure_count,
           coalesce(t.max_retries, y.max_retries, 0) as max_retries,
           coalesce(t.retry_delay, y.retry_delay, '10 seconds') as retry_delay,  -- its type is gone: what fail_task takes
           t.error, t.current_step, t.checkpoint, t.attempt, t.worker, t.progress, t.result,
           case when t.status = 'started' and t.eta is not null
                then greatest(0, extract(epoch from t.eta - now()))::double precision end as seconds_left,
           t.status = 'started' and t.cancel_requested_at is not null as cancel_requested,
           null::boolean as enabled, null::bigint as running, null::integer as owed, null::bigint as last_task,
           null::text as last_status, null::bigint as successes, null::bigint as skipped
    from many m join tasks t on t.id = m.id left join task_types y on y.name = t.type
    where p.kind = 'task' and m.id = p.id
    union all
    select null, s.item_id, s.name, s.type, s.data, h.status, m.next_execution, m.last_execution, m.failure_count,
           coalesce(s.max_retries, y.max_retries, 0), coalesce(s.retry_delay, y.retry_delay, '10 seconds'),
           coalesce((select g.problem from triggers g where g.schedule = s.name and g.problem is not null limit 1),
                    case when l.status not in ('fresh', 'started') then l.error end),
           null, null, null, null, null, null, null, null,
           s.enabled,
           (select count(*) from tasks r where r.schedule = s.name and r.status in ('waiting', 'fresh', 'started')),
           cardinality(s.owed), coalesce(l.id, s.last_task), coalesce(l.status, s.last_status),
           s.successes + (select count(*) from run_ends e where e.schedule = s.name and e.status = 'success'), s.skipped
    from few m join schedules s on s.name = m.name left join task_types y on y.name = s.type
    cross join lateral schedule_statuses(array[s.name]) h
    left join lateral (
        select r.id, r.status, r.error from tasks r
        where r.schedule = s.name and r.id >= coalesce(s.last_task, 0) order by r.id desc limit 1) l on true
    where p.kind = 'schedule' and m.kind = 'schedule' and m.name = p.name) d on true
order by p.place
-- name: retry_schedule
select retry_schedule(%(name)s, %(reset_failure_count)s)
-- name: resume_schedule
select resume_schedule(%(name)s)
-- name: configure_schedule
select configure_schedule(%(name)s, max_retries => %(max_retries)s, retry_delay => %(retry_delay)s)
