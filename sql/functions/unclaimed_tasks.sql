-- Nothing changes: which of these tasks has nobody claimed yet? Null where `pgfleet.notify` is `always`: then somebody listens who
-- wants to hear of all of them.
create or replace function unclaimed_tasks(ids bigint[]) returns bigint[] language plpgsql stable
set enable_seqscan = off set enable_bitmapscan = off
set jit = off set plan_cache_mode = force_generic_plan
as $$
begin
    if coalesce(current_setting('pgfleet.notify', true), 'auto') = 'always' then
        return null;
    end if;
    return array(select t.id from tasks t where t.id = any (ids) and t.status in ('waiting', 'fresh'));
end $$;
