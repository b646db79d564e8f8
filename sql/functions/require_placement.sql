-- A guard: raises PF006 for a timeout or a node that no task can have; null is fine for both.
create or replace function require_placement(timeout interval, node text) returns void language plpgsql immutable as $$
begin
    if timeout not between interval '1 millisecond' and interval '365 days' then
        raise exception 'timeout must be from 1 millisecond to 365 days.' using
            errcode = 'PF006', detail = format('Got %s.', timeout);
    end if;
    if node = '' then
        raise exception 'node must be a server''s name.' using
            errcode = 'PF006', detail = 'Got an empty text.', hint = 'Leave it out for a task that any server may take.';
    end if;
end $$;
