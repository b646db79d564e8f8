-- A heartbeat: the lease runs anew from the database's now. Refused once a rescuer has declared the worker lost.
create or replace function renew_worker(worker text) returns void language plpgsql as $$
begin
    update workers w set renewed_at = now(), lease_expires_at = now() + w.lease
    where w.id = renew_worker.worker and w.lost_at is null;
    if not found then
        raise exception 'Worker % has lost its lease.', worker using
            errcode = 'PF005', hint = 'Drop its work and register under a new UUID.';
    end if;
end $$;
