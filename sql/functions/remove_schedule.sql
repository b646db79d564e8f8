-- The schedule and its triggers are gone; its runs stay, as tasks, and those unfinished run on.
create or replace function remove_schedule(name text) returns void language plpgsql as $$
declare
    its schedules := require_schedule(remove_schedule.name);
begin
    delete from schedules s where s.name = its.name;
    delete from run_ends e where e.schedule = its.name;
    perform pg_notify('schedules_changed', its.name);
end $$;
