-- (nothing) -> a live worker, under an id that has never been used; its types join task_types where new.
-- `only_targeted`: it takes nothing but tasks that name its node. `schedules`: does it see to the fleet's housekeeping?
create or replace function register_worker(
    worker text, node text, types text[], concurrency integer, lease interval, version text,
    only_targeted boolean default false, schedules boolean default true
) returns void language plpgsql as $$
begin
    if exists (select from worker_history h where h.id = register_worker.worker)
        or exists (select from workers w where w.id = register_worker.worker)
    then
        raise exception 'Worker % is registered already.', worker using
            errcode = 'PF005', hint = 'Register under a new UUID.';
    end if;
    insert into task_types (name) select t from unnest(types) t order by t on conflict do nothing;
    insert into workers (id, node, types, concurrency, version, lease, lease_expires_at, only_targeted, schedules)
    values (worker, node, types, concurrency, version, lease, now() + lease, only_targeted, schedules);
    insert into worker_history (id, node, started_at) values (worker, node, now());
end $$;
