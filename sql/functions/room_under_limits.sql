-- For a claim: of `types` with a max_running, which are full, and how many of the others may be claimed.
--
-- From here to the end of its transaction the claim holds the lock `limits` exclusively: who counts, claims, and nobody
-- counts meanwhile. One lock for all types, so that no two transactions ever wait for each other. It is not taken
-- while there is nothing to claim of these types, nor, behind watermarks, while they seem full. By ids and from the front
-- it is taken then too: whoever makes room holds it shared from before its look at what is waiting until its commit
-- (tell_of_room), so a worker that was told of a task and finds its type full goes back to sleep only when all room
-- made before is counted; of what is made later it is told.
create or replace function room_under_limits(
    types text[], node text, ids bigint[], lane_types text[], lane_priorities integer[], lane_after bigint[],
    out full_types text[], out limited_types text[], out rooms integer[]
) language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    having_limits text[];
    wanted text[] := '{}';
    behind text[];
begin
    having_limits := array(
        select y.name from task_types y
        where y.max_running is not null and y.name = any (room_under_limits.types || room_under_limits.lane_types));
    if ids is not null then
        wanted := array(
            select distinct t.type from tasks t
            where t.id = any (ids) and t.status is not distinct from 'fresh' and t.type = any (having_limits));
    elsif lane_types is null then
        wanted := array(
            select distinct y.type from unnest(having_limits) y(type) cross join lateral (
                (select from tasks t where t.status = 'fresh' and t.node is null and t.type = y.type
                 order by t.priority desc, t.id limit 1)
                union all
                (select from tasks t where t.status = 'fresh' and t.node = room_under_limits.node and t.type = y.type
                 order by t.priority desc, t.id limit 1)) first);
    end if;
    if lane_types is not null then
        behind := array(
            select distinct y.type from unnest(lane_types, lane_priorities, lane_after) y(type, priority, after)
            cross join lateral (  -- not "exists", which may become a join that reads every fresh row
                select from tasks t
                where t.status = 'fresh' and t.node is null
                  and t.type = y.type and t.priority = y.priority and t.id > y.after
                order by t.id limit 1) first
            where y.type = any (having_limits) and y.type <> all (wanted));
        wanted := wanted || array(select y from unnest(behind) y where room_of_type(y) > 0);
    end if;

    limited_types := '{}';
    if wanted <> '{}' then
        perform pg_advisory_xact_lock(7440, 'tasks'::regclass::oid::integer);
        select array_agg(r.type), array_agg(r.room) into limited_types, rooms
        from (select y as type, room_of_type(y) as room from unnest(wanted) y) r where r.room > 0;
    end if;
    limited_types := coalesce(limited_types, '{}');
    full_types := array(select y from unnest(having_limits) y where y <> all (limited_types));
end $$;
