-- A guard: the schedule's row, locked; raises PF009 where there is none.
create or replace function require_schedule(name text) returns schedules language plpgsql
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    schedule schedules;
begin
    select * into schedule from schedules s where s.name = require_schedule.name for update;
    if not found then
        raise exception 'No schedule is called "%".', require_schedule.name using
            errcode = 'PF009', hint = 'List the schedules.';
    end if;
    return schedule;
end $$;
