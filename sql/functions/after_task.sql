-- The trigger on tasks, at the commit, for what ended under its type's max_running and for parts: all others pay only
-- for its WHEN clause (migration 0002). At the commit, because there every lock on tasks is held already: whoever waits
-- here, for `limits` or `parts`, waits for nothing that waits for it.
create or replace function after_task() returns trigger language plpgsql as $$
begin
    if old.limited and old.status = 'started' then
        perform tell_of_room(new.type);
    end if;
    -- A part's claims, promotions and retries by itself change nothing that its parent says.
    if new.parent is not null
        and (new.status in ('success', 'failure', 'crashed', 'cancelled') or old.status in ('failure', 'crashed', 'cancelled'))
    then
        perform sum_up_parts(new.parent);
    end if;
    return null;
end $$;
