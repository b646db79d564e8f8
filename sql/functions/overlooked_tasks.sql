-- Which fresh tasks do a worker's lanes pass over? Of the first `quantity` of each type, from the queue's front, that it might
-- claim, those that lie before its watermarks, in no lane, or name its node; in the order in which a claim from the front takes
-- them. Of each type: a backlog of one, or one that is full, must not hide the others.
-- Walks the dead entries as that claim does, but locks nothing: see worker/pgfleet_worker/overlooked.py.
create or replace function overlooked_tasks(
    worker text, types text[], quantity integer, lane_types text[], lane_priorities integer[], lane_after bigint[]
) returns table (id bigint) language plpgsql stable
set enable_seqscan = off set enable_bitmapscan = off
set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
    return query
        select f.id from (
            select n.* from workers w, unnest(overlooked_tasks.types) y(type) cross join lateral (
                (select t.id, t.type, t.priority, false as targeted from tasks t
                 where t.status = 'fresh' and t.node is null and t.type = y.type and not w.only_targeted
                 order by t.priority desc, t.id limit quantity)
                union all
                (select t.id, t.type, t.priority, true from tasks t
                 where t.status = 'fresh' and t.node = w.node and t.type = y.type
                 order by t.priority desc, t.id limit quantity)) n
            where w.id = overlooked_tasks.worker) f
        where f.targeted or not exists (
            select from unnest(lane_types, lane_priorities, lane_after) l(type, priority, after)
            where l.type = f.type and l.priority = f.priority and f.id > l.after)
        order by f.priority desc, f.id;
end $$;
