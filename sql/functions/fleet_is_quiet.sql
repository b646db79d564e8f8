-- Asked by a worker that has just said it sleeps: is nobody creating unheard? See create_task for the handshake.
-- The lock is gone again when this statement's transaction ends.
create or replace function fleet_is_quiet() returns boolean language sql volatile as $$
    select pg_try_advisory_xact_lock(7437, 'tasks'::regclass::oid::integer);
$$;
