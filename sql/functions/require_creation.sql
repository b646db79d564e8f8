-- A guard: raises PF001 or PF006 for what no new task can have, of its type, its maker, its timeout, its node.
create or replace function require_creation(type text, created_by bigint, timeout interval, node text)
returns void language plpgsql as $$
begin
    perform require_type(require_creation.type);
    if require_creation.created_by is null then
        raise exception 'A task needs created_by, the id of the user it is made for.' using errcode = 'PF006';
    end if;
    perform require_placement(require_creation.timeout, require_creation.node);
end $$;
