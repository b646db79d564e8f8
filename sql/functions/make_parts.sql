-- fresh, failure, crashed or cancelled -> started: a task becomes the parent of one part for each node that has a live worker of
-- its type now, and ends with the last of them (sum_up_parts). A node that comes later is not included.
create or replace function make_parts(parent bigint) returns void language plpgsql
set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    whole tasks := require_task(make_parts.parent);
    nodes text[];
    parts bigint[];
begin
    nodes := array(
        select distinct w.node from workers w
        where w.lost_at is null and w.lease_expires_at > now() and w.orders <> 'drain' and whole.type = any (w.types)
        order by w.node);
    if nodes = '{}' then
        raise exception 'No live worker serves type "%".', whole.type using
            errcode = 'PF006', detail = 'A task for all nodes has a part for each node that can do it.',
            hint = 'Start a worker that serves it.';
    end if;
    -- Its holder is nobody who could be lost: `workers` never has one of this name, so it is never rescued.
    update tasks t set status = 'started', worker = 'all nodes', attempt = t.attempt + 1, started_at = now(), updated_on = now(),
                       progress = 0, current_step = format('0 of %s nodes', cardinality(nodes)),
                       cancel_requested_at = null, result = null, error = null, error_detail = null
    where t.id = whole.id;
    with made as (
        insert into tasks as t (type, data, created_by, priority, max_retries, retry_delay, timeout, node, parent)
        select p.type, p.data, p.created_by, p.priority, p.max_retries, p.retry_delay, p.timeout, n.node, p.id
        from tasks p, unnest(nodes) n(node) where p.id = whole.id
        order by n.node
        returning t.id)
    select array_agg(made.id) into parts from made;
    perform ring_bell(parts);
end $$;
