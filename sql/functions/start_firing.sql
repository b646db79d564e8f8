-- Undoes stop_firing. Due times that have passed meanwhile are caught up as each schedule says; events that were held come
-- now, in their order. Answers how many tasks these made.
create or replace function start_firing() returns bigint language plpgsql
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    held record;
    made bigint := 0;
begin
    update firing set stopped = false, changed = now() where stopped;
    for held in select * from held_events e order by e.id for update loop
        made := made + emit_event(held.name, held.payload);
        delete from held_events e where e.id = held.id;
    end loop;
    perform pg_notify('schedules_changed', '');
    return made;
end $$;
