-- (nothing) -> fresh or waiting, from any client, inside its own transaction: insert, id back, wake the fleet.
--
-- A NOTIFY inside a transaction takes an instance-wide lock until that commit is flushed (32 clients fell from 19,300
-- to 3,500 inserts/s), so it is spared while nobody needs it. The handshake that leaves no task unseen:
--   here      take `bell` shared until commit, then look for a sleeper; none: no NOTIFY;
--   a worker  says that it sleeps (committed), then tries `bell` exclusively (fleet_is_quiet): refused means that one
--             of us has yet to commit, so it keeps looking; granted means that all who come later see it asleep.
-- A snapshot older than the lock could hide the sleeper, so above read committed the NOTIFY is always sent.
-- `set pgfleet.notify = always` (role, database or session) sends it always, for listeners of your own.
create or replace function create_task(
    type text, data text, created_by bigint,
    priority integer default 0, run_at timestamptz default null, max_retries integer default null,
    retry_delay interval default null, unique_key text default null, timeout interval default null, node text default null
) returns bigint language plpgsql as $$
declare
    made record;
begin
    made := insert_task(type, data, created_by, priority, run_at, max_retries, retry_delay, unique_key, timeout, node);
    if made.created then
        perform ring_bell(array[made.id]);
    end if;
    return made.id;
end $$;
