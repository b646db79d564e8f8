-- (nothing) -> fresh: a run of every enabled schedule with a trigger for that event, with the caller's commit; a rollback takes
-- them back. Whatever the overlap rule: an event is never lost, and finds its turn when the fleet has one.
-- While firing is stopped it is held, and comes with start_firing. Locks no schedule: the caller's transaction may be long.
-- Answers how many tasks were made.
create or replace function emit_event(name text, payload jsonb default null) returns bigint language plpgsql
set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    made bigint := 0;
    its schedules;
begin
    if name is null or name !~ '^[A-Za-z0-9_]([A-Za-z0-9_.: -]{0,98}[A-Za-z0-9_.:-])?$' then
        raise exception 'An event''s name has 1 to 100 letters, digits, spaces and _ . : -' using
            errcode = 'PF006', detail = format('Got %s.', coalesce(format('"%s"', name), 'null'));
    end if;
    if (select f.stopped from firing f) then
        perform from firing f where f.stopped for share;  -- start_firing waits for this lock, and so finds what is held
        if found then
            insert into held_events (name, payload) values (emit_event.name, emit_event.payload);
            return 0;
        end if;
    end if;
    for its in
        select s.* from schedules s
        where s.enabled and s.name in (select t.schedule from triggers t where t.event = emit_event.name)
        order by s.priority desc, s.name
    loop
        perform make_run(its, null, data_with_event(its.data, emit_event.name, emit_event.payload));
        made := made + 1;
    end loop;
    return made;
end $$;
