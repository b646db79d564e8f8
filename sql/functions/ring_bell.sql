-- Inside a creating transaction: NOTIFY the ids, unless every worker is awake and will look by itself (see create_task).
create or replace function ring_bell(ids bigint[]) returns void language plpgsql as $$
begin
    if current_setting('transaction_isolation') = 'read committed' then
        perform pg_advisory_xact_lock_shared(7437, 'tasks'::regclass::oid::integer);
        if fleet_sleepers() = 0 then
            return;
        end if;
    end if;
    perform notify_tasks(ids);
end $$;
