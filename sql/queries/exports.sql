-- name: of_owner
select id, filename, created_at, owner_id, task_id, format, bytes, sha256 from exports
where owner_id = %(owner_id)s order by id desc
-- name: by_filename
select id, filename, created_at, owner_id, task_id, format, bytes, sha256 from exports where filename = %(filename)s
-- name: latest_of_owner
-- What a poll compares: cheap, and different after every new or removed export. The sum tells a list from one in which another has come
-- for one that went: ids may commit out of their order, while retention takes an older one.
select count(*), max(id), sum(id)::text from exports where owner_id = %(owner_id)s
