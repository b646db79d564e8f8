-- name: unfinished
-- By status and type, at most 10,000 rows a status: finished tasks are never counted, that would read the table.
select status, type, count(*) from (
    (select status, type from tasks where status = 'fresh' limit 10000)
    union all (select status, type from tasks where status = 'waiting' limit 10000)
    union all (select status, type from tasks where status = 'started' limit 10000)) unfinished
group by status, type order by status, type
-- name: live_workers
select count(*) from workers where lost_at is null and lease_expires_at > now()
