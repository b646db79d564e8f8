-- A worker says whether it needs waking. After `true` it must look once more before it sleeps.
create or replace function set_sleeping(worker text, sleeping boolean) returns void language sql as $$
    update workers w set sleeping = set_sleeping.sleeping
    where w.id = set_sleeping.worker and w.sleeping <> set_sleeping.sleeping;
$$;
