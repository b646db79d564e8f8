-- name: purge
select reached, purged, files from purge_tasks(%(statuses)s, %(older_than)s, %(after)s, %(quantity)s)
-- name: purgeable
select p.status, count(*), coalesce(sum((select count(*) from exports e where e.task_id = p.id)), 0)::bigint
from purgeable_tasks(%(statuses)s, %(older_than)s, 0, 9223372036854775807) p group by p.status order by p.status
-- name: newest
select coalesce(max(id), 0) from tasks
-- name: fleet
select id::text from fleet_identity
-- name: orphaned
select orphaned_files(%(names)s, %(written)s, %(task_ids)s, %(attempts)s, %(slack)s)
