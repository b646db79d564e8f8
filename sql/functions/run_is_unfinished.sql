-- Is a run of that schedule waiting, ready or going?
create or replace function run_is_unfinished(schedule text) returns boolean language plpgsql
set enable_seqscan = off set enable_bitmapscan = off
as $$
begin
    return exists (select from tasks t
                   where t.schedule = run_is_unfinished.schedule and t.status in ('waiting', 'fresh', 'started'));
end $$;
