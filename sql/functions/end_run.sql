-- A run has ended: noted for end_runs, in the settle's own transaction and without a lock on the schedule (see run_ends).
-- Firing workers are told where something may begin with it: an owed run, or a pause of fixed length.
create or replace function end_run() returns trigger language plpgsql
set enable_seqscan = off set enable_bitmapscan = off
as $$
begin
    insert into run_ends (schedule, task, run_at, status) values (new.schedule, new.id, new.created_at, new.status);
    if exists (select from schedules s where s.name = new.schedule and (s.overlap = 'queue' or s.owed <> '{}'))
        or exists (select from triggers t where t.schedule = new.schedule and t.fixed_delay)
    then
        perform pg_notify('schedules_changed', new.schedule);
    end if;
    return null;
end $$;
