-- (nothing) -> fresh: a run now, by hand, enabled or not; its clock goes on as it was. Refused while one is unfinished, whatever
-- the overlap rule: two who press the button at once get one run. Answers the task's id.
create or replace function trigger_schedule(name text) returns bigint language plpgsql as $$
declare
    its schedules := require_schedule(trigger_schedule.name);
begin
    if run_is_unfinished(its.name) then
        raise exception 'Schedule "%" has a run that is not finished.', its.name using
            errcode = 'PF008', hint = 'Wait for its end, or cancel it.';
    end if;
    -- Above read committed the other of two who press at once doesn't see this run: let it fail on the row (40001).
    update schedules s set name = s.name where s.name = its.name;
    return make_run(its, null, its.data);
end $$;
