-- Nothing starts by itself from this commit on, until start_firing: no due time, no owed run, no event (those are held). What
-- runs, runs on; a run by hand is still a run.
-- Waits for whoever is firing at this moment (they hold `firing` shared until their commit; see may_fire), so that no run
-- comes to light once it has answered. Only an event may, whose transaction had emitted it before.
create or replace function stop_firing() returns void language sql as $$
    select pg_advisory_xact_lock(7442, 'tasks'::regclass::oid::integer);
    update firing set stopped = true, changed = now() where not stopped;
    select pg_notify('schedules_changed', '');
$$;
