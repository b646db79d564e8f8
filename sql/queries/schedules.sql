-- name: put
select put_schedule(
    %(name)s, %(type)s, %(data)s, %(triggers)s::jsonb, task_group => %(group)s, description => %(description)s,
    created_by => %(created_by)s, priority => %(priority)s, enabled => %(enabled)s, max_retries => %(max_retries)s,
    retry_delay => %(retry_delay)s, timeout => %(timeout)s, node => %(node)s, all_nodes => %(all_nodes)s,
    overlap => %(overlap)s, catch_up => %(catch_up)s, catch_up_limit => %(catch_up_limit)s, time_zone => %(time_zone)s,
    declared => %(declared)s)
-- name: remove
select remove_schedule(%(name)s)
-- name: enable
select enable_schedule(%(name)s, %(enabled)s)
-- name: trigger
select trigger_schedule(%(name)s)
-- name: emit
select emit_event(%(name)s, %(payload)s::jsonb)
-- name: stop
select stop_firing()
-- name: start
select start_firing()
-- name: stopped
select stopped from firing
-- name: now
select now()
-- name: list
-- First the page, by name; then, for its rows only, their triggers, their last run, and the ends not accounted for yet.
with live as (select w.declares from workers w where w.lost_at is null and w.lease_expires_at > now())
select s.name, s.task_group as group, s.description, s.type, s.data, s.created_by, s.priority, s.enabled, s.max_retries,
       s.retry_delay, s.timeout, s.node, s.all_nodes, s.overlap, s.catch_up, s.catch_up_limit, s.time_zone, s.declared,
       s.created_at, s.updated_on, s.stale, cardinality(s.owed) as owed, t.triggers, t.next_due,
       r.running, coalesce(l.id, s.last_task) as last_task, coalesce(l.created_at, s.last_run_at) as last_run_at,
       coalesce(l.status, s.last_status) as last_status, coalesce(e.ended_at, s.last_ended_at) as last_ended_at,
       s.successes + e.successes as successes, s.failures + e.failures as failures,
       s.skipped, s.last_skipped_at, s.last_skip_reason
from (
    select * from (
        select s.*, s.declared and exists (select from live)
                    and not exists (select from live where s.name = any (live.declares)) as stale
        from schedules s
        where (%(name)s::text is null or s.name = %(name)s)
          and (%(group)s::text is null or s.task_group = %(group)s)
          and (%(type)s::text is null or s.type = %(type)s)
          and (%(enabled)s::boolean is null or s.enabled = %(enabled)s)) s
    where (%(stale)s::boolean is null or s.stale = %(stale)s)
    order by s.name offset %(offset)s limit %(limit)s) s
cross join lateral (
    select coalesce(jsonb_agg(jsonb_build_object(
               'kind', t.kind, 'every', extract(epoch from t.every), 'fixed_delay', t.fixed_delay, 'cron', t.cron,
               'event', t.event, 'at', t.at, 'after', extract(epoch from t.after),
               'due_at', case when not t.unaimed then t.due_at end, 'done_at', t.done_at, 'problem', t.problem)
               order by t.id), '[]') as triggers,
           min(t.due_at) filter (where not t.unaimed and not t.paused) as next_due
    from triggers t where t.schedule = s.name) t
cross join lateral (
    select count(*) as running from tasks t
    where t.schedule = s.name and t.status in ('waiting', 'fresh', 'started')) r
cross join lateral (
    select count(*) filter (where e.status = 'success') as successes,
           count(*) filter (where e.status in ('failure', 'crashed')) as failures, max(e.ended_at) as ended_at
    from run_ends e where e.schedule = s.name) e
left join lateral (
    select t.id, t.status, t.created_at from tasks t where t.schedule = s.name order by t.id desc limit 1) l on true
order by s.name
-- name: count
with live as (select w.declares from workers w where w.lost_at is null and w.lease_expires_at > now())
select count(*) from schedules s
where (%(group)s::text is null or s.task_group = %(group)s)
  and (%(type)s::text is null or s.type = %(type)s)
  and (%(enabled)s::boolean is null or s.enabled = %(enabled)s)
  and (%(stale)s::boolean is null or %(stale)s = (
      s.declared and exists (select from live) and not exists (select from live where s.name = any (live.declares))))
-- name: runs
select t.*, y.max_retries as type_max_retries, y.retry_delay as type_retry_delay, y.timeout as type_timeout,
       case when t.status = 'started' and t.eta is not null
            then greatest(0, extract(epoch from t.eta - now()))::double precision end as seconds_left
from tasks t left join task_types y on y.name = t.type
where t.schedule = %(name)s order by t.id desc offset %(offset)s limit %(limit)s
-- name: count_runs
select count(*) from tasks t where t.schedule = %(name)s
-- name: listen
listen schedules_changed
-- name: declare
select declare_schedules(%(worker)s, %(declares)s::text[], %(memory)s::jsonb)
-- name: in_memory
-- What live workers keep in memory, as they last told.
select w.id as worker, w.node, m.value as schedule
from workers w cross join lateral jsonb_array_elements(w.memory_schedules) with ordinality m(value, n)
where w.lost_at is null and w.lease_expires_at > now() and jsonb_typeof(w.memory_schedules) = 'array'
order by w.id, m.n
-- name: any
select exists (select from schedules s where s.name <> all (%(own)s::text[]))
-- name: has_ends
select exists (select from run_ends)
-- name: next_due_in
select next_due_in()
-- name: end_runs
select end_runs()
-- name: due
select * from due_triggers(%(quantity)s)
-- name: fire
select f.id, fire_trigger(f.id, f.due_times, f.next_due, f.skipped, f.reason)
from json_to_recordset(%(firings)s::json) as f(
    id bigint, due_times timestamptz[], next_due timestamptz, skipped integer, reason text)
-- name: executions
-- The attempts at a schedule's runs that have ended, the latest first: those in the rows of its latest runs, and those that
-- another followed. Not what was given back without blame.
select e.task, e.attempt, e.worker, e.started_at, e.ended_at, e.status, e.error, e.error_detail, e.result, e.data,
       e.cpu_seconds, e.peak_memory
from (select t.* from tasks t where t.schedule = %(name)s order by t.id desc limit %(limit)s) r
cross join lateral (
    select r.id as task, r.attempt, r.worker, coalesce(r.started_at, r.created_at) as started_at, r.updated_on as ended_at,
           r.status, r.error, r.error_detail, r.result, r.data, r.cpu_seconds, r.peak_memory
    where r.status in ('success', 'failure', 'crashed') or (r.status = 'cancelled' and r.worker is not null)
    union all
    select r.id, a.attempt, a.worker, coalesce(a.started_at, r.created_at), a.ended_at,
           a.status, a.error, a.error_detail, null, r.data, a.cpu_seconds, a.peak_memory
    from task_attempts a where a.task_id = r.id and a.status <> 'released') e
order by r.id desc, e.attempt desc limit %(limit)s
