-- How many need waking: the sleeping workers; 1 (whoever listens) where no worker lives or `pgfleet.notify` is `always`.
-- 0 means that workers live and all of them are awake: they will look by themselves.
create or replace function fleet_sleepers() returns integer language plpgsql volatile as $$
declare
    alive integer;
    asleep integer;
begin
    select count(*), count(*) filter (where w.sleeping) into alive, asleep
    from workers w where w.lost_at is null and w.lease_expires_at > now();
    if alive = 0 or coalesce(current_setting('pgfleet.notify', true), 'auto') = 'always' then
        return greatest(asleep, 1);
    end if;
    return asleep;
end $$;
