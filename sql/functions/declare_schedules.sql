-- A live worker says which schedules its code declares, and how those do that it keeps in memory; null leaves either as it is.
create or replace function declare_schedules(worker text, declares text[] default null, memory_schedules jsonb default null)
returns void language plpgsql as $$
#variable_conflict use_column
begin
    update workers w set
        declares = coalesce(declare_schedules.declares, w.declares),
        memory_schedules = coalesce(declare_schedules.memory_schedules, w.memory_schedules)
    where w.id = declare_schedules.worker and w.lost_at is null;
    if not found then
        raise exception 'Worker % has lost its lease.', declare_schedules.worker using
            errcode = 'PF005', hint = 'Drop its work and register under a new UUID.';
    end if;
end $$;
