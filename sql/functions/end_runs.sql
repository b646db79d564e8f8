-- What the ends of runs bring: the schedule's numbers, the pause of fixed length that begins now, the run that is owed.
-- Any firing worker, whenever it looks: locks schedules as due_triggers does, waiting for none. The pause and the owed run
-- go by the state of the tables, so that also a run that an operator deleted keeps nothing from going on.
-- Answers the tasks made.
create or replace function end_runs(quantity integer default 100) returns bigint[] language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    whose text;
    its schedules;
    stopped boolean := not may_fire();
    made bigint;
    runs bigint[] := '{}';
begin
    for whose in
        select e.schedule from (select distinct r.schedule from run_ends r limit quantity) e
        union
        (select t.schedule from triggers t where t.fixed_delay and t.due_at is null and t.problem is null
         and not exists (select from tasks r where r.schedule = t.schedule and r.status in ('waiting', 'fresh', 'started'))
         limit quantity)
        union
        (select s.name from schedules s where s.owed <> '{}' and not stopped
         and not exists (select from tasks r where r.schedule = s.name and r.status in ('waiting', 'fresh', 'started'))
         limit quantity)
    loop
        select * into its from schedules s where s.name = whose for update skip locked;
        if not found then
            continue when exists (select from schedules s where s.name = whose);
            delete from run_ends e where e.schedule = whose;
            continue;
        end if;
        perform account_for_runs(its.name);
        if run_is_unfinished(its.name) then
            continue;
        end if;
        made := null;
        while made is null and its.owed <> '{}' and not stopped loop
            made := make_run(its, its.owed[1], its.data);  -- null where another trigger has fired that due time
            its.owed := its.owed[2:];
        end loop;
        update schedules s set owed = its.owed where s.name = its.name and s.owed <> its.owed;
        if made is not null then
            runs := runs || made;
            continue;
        end if;
        update triggers t set due_at = coalesce(greatest(s.last_ended_at, t.created_at), now()) + t.every
        from schedules s
        where s.name = its.name and t.schedule = s.name and t.fixed_delay and t.due_at is null and t.problem is null;
    end loop;
    return runs;
end $$;
