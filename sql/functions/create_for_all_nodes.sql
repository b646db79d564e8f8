-- (nothing) -> one part for each node that has a live worker of the type now, and their parent, which is started at once and
-- ends with the last of them (sum_up_parts). A node that comes later is not included. Answers the parent's id.
create or replace function create_for_all_nodes(
    type text, data text, created_by bigint, priority integer default 0, max_retries integer default null,
    retry_delay interval default null, timeout interval default null
) returns bigint language plpgsql as $$
#variable_conflict use_column
declare
    nodes text[];
    whole bigint;
    parts bigint[];
begin
    nodes := array(
        select distinct w.node from workers w
        where w.lost_at is null and w.lease_expires_at > now() and w.orders <> 'drain'
          and create_for_all_nodes.type = any (w.types)
        order by w.node);
    whole := (insert_task(create_for_all_nodes.type, create_for_all_nodes.data, create_for_all_nodes.created_by,
                          create_for_all_nodes.priority, null, create_for_all_nodes.max_retries,
                          create_for_all_nodes.retry_delay, null, create_for_all_nodes.timeout)).id;
    if nodes = '{}' then
        raise exception 'No live worker serves type "%".', create_for_all_nodes.type using
            errcode = 'PF006', detail = 'A task for all nodes has a part for each node that can do it.',
            hint = 'Start a worker that serves it.';
    end if;
    -- Its holder is nobody who could be lost: `workers` never has one of this name, so it is never rescued.
    update tasks t set status = 'started', worker = 'all nodes', attempt = 1, started_at = now(), updated_on = now(),
                       progress = 0, current_step = format('0 of %s nodes', cardinality(nodes))
    where t.id = whole;
    with made as (
        insert into tasks as t (type, data, created_by, priority, max_retries, retry_delay, timeout, node, parent)
        select p.type, p.data, p.created_by, p.priority, p.max_retries, p.retry_delay, p.timeout, n.node, p.id
        from tasks p, unnest(nodes) n(node) where p.id = whole
        order by n.node
        returning t.id)
    select array_agg(made.id) into parts from made;
    perform ring_bell(parts);
    return whole;
end $$;
