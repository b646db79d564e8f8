-- For tasks that are committed: NOTIFY them where somebody sleeps, in a transaction of its own; answers how many sleep.
create or replace function tell_sleepers(ids bigint[]) returns integer language plpgsql as $$
declare
    sleepers integer := fleet_sleepers();
begin
    if sleepers > 0 then
        perform notify_tasks(ids);
    end if;
    return sleepers;
end $$;
