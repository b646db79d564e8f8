-- Does anybody need waking? Yes, unless there are workers and all of them are awake.
create or replace function fleet_sleeps() returns boolean language plpgsql volatile as $$
begin
    return coalesce(current_setting('pgfleet.notify', true), 'auto') = 'always'
        or coalesce((select bool_or(w.sleeping) from workers w
                     where w.lost_at is null and w.lease_expires_at > now()), true);
end $$;
