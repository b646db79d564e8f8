-- Asked by whoever is about to fire: is firing not stopped, and will it not be until the caller's commit? The lock `firing`,
-- shared, and then the look: in this order, or a stop that commits in between would go unseen.
-- Waits for nobody: false, too, while somebody waits to stop it.
create or replace function may_fire() returns boolean language plpgsql as $$
begin
    if not pg_try_advisory_xact_lock_shared(7442, 'tasks'::regclass::oid::integer) then
        return false;
    end if;
    return not (select f.stopped from firing f);
end $$;
