-- name: register
select register_worker(%(worker)s, %(node)s, %(types)s, %(concurrency)s, %(lease)s, %(version)s,
                       only_targeted => %(only_targeted)s, schedules => %(schedules)s)
-- name: register_type
select register_type(%(name)s, %(description)s, %(for_readers)s, %(max_retries)s, %(retry_delay)s, %(timeout)s,
                     %(max_running)s)
-- name: timeouts
-- In seconds; null: as long as it takes.
select name, extract(epoch from timeout)::double precision from task_types where name = any (%(types)s)
-- name: renew
select r.place, r.alive, fleet_sleepers(), n.place, n.alive
from renew_worker(%(worker)s) r cross join lateral (
    select count(*) filter (where o.id < w.id) as place, count(*) as alive
    from workers w join workers o on o.node = w.node and o.types = w.types
    where w.id = %(worker)s and o.lost_at is null and o.lease_expires_at > now()) n
-- name: deregister
select deregister_worker(%(worker)s)
-- name: abandon
select id, status, lost_worker, type, attempt from abandon_worker(%(worker)s, %(quantity)s)
-- name: claim_front
select * from claim_tasks($1, $2, $3)
-- name: claim_ids
select * from claim_tasks($1, $2, $3, ids => $4)
-- name: claim_lanes
select * from claim_tasks($1, $2, $3, lane_types => $4, lane_priorities => $5, lane_after => $6)
-- name: claim_lanes_and_ids
select * from claim_tasks($1, $2, $3, lane_types => $4, lane_priorities => $5, lane_after => $6, ids => $7)
-- name: finish
select finish_tasks(%s, %s, %s, %s::text[], %s::double precision[], %s::bigint[])
-- name: finish_export
select finish_export(%(worker)s, %(id)s, %(attempt)s, %(result)s,
                     %(filename)s, %(owner_id)s, %(format)s, %(bytes)s, %(sha256)s,
                     %(cpu_seconds)s, %(peak_memory)s)
-- name: fail
select status, run_at, extract(epoch from run_at - now())::double precision
from fail_task(%(worker)s, %(id)s, %(attempt)s, %(error)s, %(error_detail)s, %(give_up)s, %(retry_in)s,
               %(cpu_seconds)s, %(peak_memory)s)
-- name: end_cancelled
select end_cancelled(%(worker)s, %(id)s, %(attempt)s, %(cpu_seconds)s, %(peak_memory)s)
-- name: progress
-- Answers whether somebody has asked to cancel the task, as `checkpoint` does.
select progress_task(%(worker)s, %(id)s, %(attempt)s, %(progress)s, %(current_step)s, %(time_left)s)
-- name: checkpoint
select checkpoint_task(%(worker)s, %(id)s, %(attempt)s, %(checkpoint)s)
-- name: orders
select orders, cancelled, attempts from worker_orders(%(worker)s)
-- name: last_orders
-- What a worker was told last, though it is lost by now.
select orders from workers where id = %(worker)s
-- name: release
select release_tasks(%s, %s, %s, %s)
-- name: overlooked
select id from overlooked_tasks(%(worker)s, %(types)s, %(quantity)s, %(lane_types)s, %(lane_priorities)s, %(lane_after)s)
-- name: lanes_of
select type, priority, min(id) from tasks where id = any (%(ids)s) and node is null group by type, priority
-- name: unheld
select id, attempt from unheld_tasks(%s, %s, %s)
-- name: release_unheld
select release_unheld(%s, %s, %s)
-- name: rescue
select id, status, worker, type, attempt from rescue_tasks(%(quantity)s)
-- name: crash_parts
select id, status, node, type, attempt from crash_parts()
-- name: promote
-- And what else any worker does with every poll, fire it or not: neither of the two waits for a lock.
select promoted, next_in, account_for_ends() from promote_tasks()
-- name: set_sleeping
select set_sleeping(%s, %s)
-- name: is_quiet
select fleet_is_quiet()
-- name: creators
-- The transactions that hold create_task's lock, each by a name of its own.
select virtualtransaction from pg_locks
where locktype = 'advisory' and classid = 7437 and objid = 'tasks'::regclass::oid and objsubid = 2
  and database = (select d.oid from pg_database d where d.datname = current_database())
  and mode = 'ShareLock' and granted
-- name: listen
listen task_created; listen worker_orders; listen schedules_changed
-- name: list
-- `running` counts by the index of started tasks, one look a worker.
select w.id, w.node, w.types, w.concurrency, w.only_targeted, w.schedules, w.version, w.started_at, w.renewed_at,
       w.lease_expires_at, w.sleeping, w.lost_at, w.orders,
       case when w.lost_at is not null or w.lease_expires_at < now() then 'lost'
            when w.orders = 'pause' then 'paused' when w.orders = 'drain' then 'draining' else 'live' end as status,
       r.running
from workers w cross join lateral (
    select count(*) as running from tasks t where t.worker = w.id and t.status = 'started') r
where %(id)s::text is null or w.id = %(id)s or split_part(w.id, ':', 2) = %(id)s
order by w.started_at, w.id
-- name: order
select order_worker(%(worker)s, %(orders)s)
