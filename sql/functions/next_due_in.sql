-- Seconds until the next trigger is due, 0 where one is overdue; null: none is on the clock, or firing is stopped.
-- Reads one entry of an index.
create or replace function next_due_in() returns double precision language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set jit = off set plan_cache_mode = force_generic_plan
as $$
begin
    if (select f.stopped from firing f) then
        return null;
    end if;
    return (select greatest(extract(epoch from t.due_at - clock_timestamp()), 0)
            from triggers t where t.due_at is not null and not t.paused order by t.due_at limit 1);
end $$;
