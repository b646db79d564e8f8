-- (nothing) -> one part for each node that has a live worker of the type now, and their parent, which is started at once and
-- ends with the last of them (make_parts). Answers the parent's id.
create or replace function create_for_all_nodes(
    type text, data text, created_by bigint, priority integer default 0, max_retries integer default null,
    retry_delay interval default null, timeout interval default null
) returns bigint language plpgsql as $$
declare
    whole bigint := (insert_task(create_for_all_nodes.type, create_for_all_nodes.data, create_for_all_nodes.created_by,
                                 create_for_all_nodes.priority, null, create_for_all_nodes.max_retries,
                                 create_for_all_nodes.retry_delay, null, create_for_all_nodes.timeout)).id;
begin
    perform make_parts(whole);
    return whole;
end $$;
