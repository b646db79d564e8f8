-- A heartbeat: the lease runs anew from the database's now. Refused once a rescuer has declared the worker lost.
-- Answers the worker's place among the live ones that take the same, and their number: by these a crowd that hears of one task
-- takes turns (worker/README.md), but for those that an operator has told to take nothing.
create or replace function renew_worker(worker text, out place integer, out alive integer) language plpgsql as $$
declare
    mine text[];
    targeted boolean;
begin
    update workers w set renewed_at = now(), lease_expires_at = now() + w.lease
    where w.id = renew_worker.worker and w.lost_at is null
    returning w.types, w.only_targeted into mine, targeted;
    if not found then
        raise exception 'Worker % has lost its lease.', worker using
            errcode = 'PF005', hint = 'Drop its work and register under a new UUID.';
    end if;
    select count(*) filter (where w.id < renew_worker.worker), count(*) into place, alive
    from workers w
    where w.lost_at is null and w.lease_expires_at > now() and w.types = mine and w.only_targeted = targeted
      and w.orders = 'work';
end $$;
