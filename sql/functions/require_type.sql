-- A guard: raises PF001 for a task type that nobody registered. Those of the fleet's own chores are nobody's choice.
create or replace function require_type(type text) returns void language plpgsql stable as $$
begin
    perform from task_types t where t.name = require_type.type;
    if not found then
        raise exception 'Unknown task type "%".', require_type.type using
            errcode = 'PF001',
            detail = format('Known types: %s.',
                            (select coalesce(string_agg(t.name, ', ' order by t.name), 'none')
                             from task_types t where not starts_with(t.name, 'pgfleet.'))),
            hint = 'Correct the name, or start a worker that serves it.';
    end if;
end $$;
