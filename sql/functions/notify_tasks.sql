-- A hint, never the truth: tells the listeners on `task_created` that these tasks may be ready. Of one that names a node that
-- node's workers hear by a channel of their own as well: of a crowd only few go for what all hear of (worker/README.md), and
-- it might be none of them.
create or replace function notify_tasks(ids bigint[]) returns void language plpgsql
set enable_seqscan = off set enable_bitmapscan = off
as $$
begin
    perform pg_notify('task_created', id::text) from unnest(ids) id;
    -- A hash, since a node's name may be longer than a channel's; not md5, which a server bound to FIPS refuses.
    perform pg_notify('node_tasks_' || left(encode(sha256(convert_to(t.node, 'UTF8')), 'hex'), 40), t.id::text)
    from tasks t where t.id = any (ids) and t.node is not null;
end $$;
