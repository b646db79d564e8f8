-- name: unfinished
-- By status and type, at most 10,000 rows a status: finished tasks are never counted, that would read the table. Fresh
-- ones are asked for as their two indexes have them.
select status, type, count(*) from (
    (select status, type from tasks where status = 'fresh' and node is null limit 10000)
    union all (select status, type from tasks where status = 'fresh' and node is not null limit 10000)
    union all (select status, type from tasks where status = 'waiting' limit 10000)
    union all (select status, type from tasks where status = 'started' limit 10000)) unfinished
group by status, type order by status, type
-- name: workers
select case when lost_at is not null or lease_expires_at < now() then 'lost'
            when orders = 'pause' then 'paused' when orders = 'drain' then 'draining' else 'live' end, count(*)
from workers group by 1
-- name: oldest_fresh
-- The first in line of each type and priority, by the index that claims walk; at most 1,000 such lines, because readers
-- choose their priorities. Seconds since it became ready.
with recursive lines as (
    select f.* from task_types y cross join lateral (
        select t.type, t.priority, coalesce(t.updated_on, t.created_at) as since from tasks t
        where t.status = 'fresh' and t.node is null and t.type = y.name order by t.priority desc, t.id limit 1) f
    union all
    select f.* from lines l cross join lateral (
        select t.type, t.priority, coalesce(t.updated_on, t.created_at) from tasks t
        where t.status = 'fresh' and t.node is null and t.type = l.type and t.priority < l.priority
        order by t.priority desc, t.id limit 1) f)
select type, greatest(0, extract(epoch from now() - min(since)))::double precision
from (select type, since from lines limit 1000) first_in_line group by type order by type
