-- Nothing starts by itself from this commit on, until start_firing: no due time, no owed run, no event (those are held). What
-- runs, runs on; a run by hand is still a run.
create or replace function stop_firing() returns void language sql as $$
    update firing set stopped = true, changed = now() where not stopped;
    select pg_notify('schedules_changed', '');
$$;
