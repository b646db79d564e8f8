-- For a client that writes tasks of one type into the table by COPY: checks what create_tasks checks of them and answers ids for
-- them, in order; null where this role can't do that (no right to the sequence, or row-level security): create_tasks can. What is
-- written so, ring_bell tells of, in the same transaction.
create or replace function reserve_tasks(type text, quantity integer, created_by bigint, timeout interval, node text)
returns bigint[] language plpgsql as $$
declare
    ids regclass := pg_get_serial_sequence('tasks', 'id');
begin
    perform require_creation(reserve_tasks.type, reserve_tasks.created_by, reserve_tasks.timeout, reserve_tasks.node);
    if not has_sequence_privilege(ids, 'usage') or row_security_active('tasks') then
        return null;
    end if;
    return array(select nextval(ids) from generate_series(1, quantity));
end $$;
