-- Keeps run_ends short where nobody fires (all workers are --no-schedules, or paused): ends that no firing worker has fetched
-- for `unfetched` go into their schedules' numbers. Any worker, with every poll; where somebody fires it reads one row.
-- Locks as end_runs does, waiting for nobody: a schedule that somebody has locked comes with a later call. Whether anything
-- is to start now that a run has ended stays for whoever fires: that goes by the tables. Answers how many schedules it saw to.
create or replace function account_for_ends(unfetched interval default '2 minutes', quantity integer default 100)
returns integer language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
    whose text;
    done integer := 0;
begin
    if coalesce((select e.ended_at from run_ends e order by e.id limit 1) > now() - unfetched, true) then
        return 0;
    end if;
    for whose in select distinct e.schedule from run_ends e limit quantity loop
        perform from schedules s where s.name = whose for update skip locked;
        if found then
            perform account_for_runs(whose);
            done := done + 1;
        elsif not exists (select from schedules s where s.name = whose) then
            delete from run_ends e
            where e.id in (select o.id from run_ends o where o.schedule = whose for update skip locked);
        end if;
    end loop;
    return done;
end $$;
