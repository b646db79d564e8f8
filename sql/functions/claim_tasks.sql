-- fresh -> started, for up to `quantity` tasks of the worker's types: the most urgent first, then the oldest.
--
-- Three ways to look, because under a long transaction dead entries can't be cleaned and a walk from the queue's
-- front meets them all (a million: about 200 ms a claim):
--   ids     those just notified, by primary key;
--   lanes   (type, priority, after): only what lies behind the caller's watermark, its last claim in that lane;
--   neither from the front: finds everything, and may be slow; the worker bounds how often (see worker/README.md).
-- Lanes and ids together are one claim in one order: of the ids, what no lane leads to.
-- A task that names a node is for that node's workers, found by its id and from the front; lanes pass over it.
--
-- Types with a max_running: see room_under_limits. Types without one pay a look at an index that is nearly empty.
--
-- First where to cut, then lock: locking each lane's first `quantity` rows and dropping most would hide them from
-- other workers meanwhile. With one lane there is nothing to cut.
-- The plans are pinned: every step is an index scan or a nested loop over the primary key, whatever the statistics say.
-- Rows are named by `= any (array)`, never by a join with unnest: a plan made while the table was empty and vacuumed puts
-- the table outside and reads all of it for every batch (395 ms a claim at 90,000 rows), until the next ANALYZE.
create or replace function claim_tasks(
    worker text, types text[], quantity integer, ids bigint[] default null,
    lane_types text[] default null, lane_priorities integer[] default null, lane_after bigint[] default null
) returns table (
    id bigint, type text, data text, created_by bigint, attempt integer, priority integer, failure_count integer,
    timeout double precision, checkpoint text
) language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    own_node text;
    orders text;
    only_targeted boolean;
    limits text[];        -- those of the types that have one
    waits boolean;        -- is there any of these to claim?
    one text;
    limited_types text[];
    rooms integer[];      -- how many of each of limited_types may
    caps integer[];       -- the same for each of `types`; null: as many as there are
    chosen bigint[];
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'Tasks can be claimed in read committed transactions only.' using
            errcode = '25001', detail = 'An older snapshot would miss orders, limits and what others have started meanwhile.',
            hint = 'Claim in a transaction of its own, at read committed, and commit at once.';
    end if;
    -- deregister_worker and order_worker wait for this lock: a claim on a connection that broke must not commit unseen after the
    -- one, nor a claim that saw other orders after the other. First the lock, then the look at the lease. (`for key share` on the
    -- row would write for every claim, even an empty one.)
    -- configure_type waits for the other: a claim that saw no limit must not commit unseen after a type's first was set.
    perform pg_advisory_xact_lock_shared(7438, hashtext(claim_tasks.worker)),
            pg_advisory_xact_lock_shared(7439, 'tasks'::regclass::oid::integer);
    select w.node, w.orders, w.only_targeted,
           array(select y.name from task_types y
                 where y.max_running is not null and y.name = any (claim_tasks.types || lane_types))
    into own_node, orders, only_targeted, limits
    from workers w where w.id = claim_tasks.worker and w.lost_at is null and w.lease_expires_at > now();
    if not found then
        raise exception 'Worker % holds no lease.', claim_tasks.worker using
            errcode = 'PF005', hint = 'Drop its work and register under a new UUID.';
    end if;
    if orders <> 'work' then
        return;
    end if;

    -- Every worker serves types with a limit, the fleet's own chores; hardly ever is one there. So a short look first: without
    -- any the ordinary ways lead to all the rest.
    foreach one in array limits loop
        types := array_remove(types, one);
    end loop;
    if ids is not null and lane_types is null then
        -- "is not distinct from" keeps the planner off tasks_fresh, which it would walk whole for each id while it
        -- knows nothing of a new backlog (2 million comparisons for 100 ids among 20,000).
        chosen := array(
            select t.id from tasks t
            where t.id = any (ids) and t.status is not distinct from 'fresh' and t.type = any (types)
              and case when t.node is null then not only_targeted else t.node = own_node end
            order by t.priority desc, t.id limit quantity
            for update skip locked);
        -- Where all of them are chosen, none is of these types: a lone task need not wait for that look.
        waits := limits <> '{}' and cardinality(chosen) < cardinality(ids) and exists (
            select from tasks t where t.id = any (ids) and t.status is not distinct from 'fresh' and t.type = any (limits));
    elsif lane_types is null then
        waits := limits <> '{}' and exists (
            select from unnest(limits) y(type) cross join lateral (
                (select from tasks t where t.status = 'fresh' and t.node is null and t.type = y.type
                 order by t.priority desc, t.id limit 1)
                union all
                (select from tasks t where t.status = 'fresh' and t.node = own_node and t.type = y.type
                 order by t.priority desc, t.id limit 1)) first);
    else
        waits := limits && lane_types or limits <> '{}' and exists (
            select from tasks t where t.id = any (ids) and t.status is not distinct from 'fresh' and t.type = any (limits));
    end if;
    if waits then
        select r.limited_types, r.rooms into limited_types, rooms
        from room_under_limits(limits, own_node, ids, lane_types, lane_priorities, lane_after) r;
        types := types || limited_types;
        caps := array(select rooms[array_position(limited_types, y)] from unnest(types) y);
    end if;

    if ids is not null and lane_types is null and caps is null then
        null;  -- chosen above
    elsif ids is null and lane_types is null then
        if cardinality(types) = 1 and caps is null and not only_targeted and not exists (
            select from tasks t where t.status = 'fresh' and t.node = own_node and t.type = types[1])
        then
            chosen := array(
                select t.id from tasks t
                where t.status = 'fresh' and t.node is null and t.type = types[1]
                order by t.priority desc, t.id limit quantity
                for update skip locked);
        else
            chosen := array(
                select l.id from (
                    select c.type, c.targeted, count(*) as share from (
                        select f.type, f.targeted, f.priority, f.id from unnest(types, caps) y(type, cap) cross join lateral (
                            select * from (
                                (select t.type, false as targeted, t.priority, t.id from tasks t
                                 where t.status = 'fresh' and t.node is null and t.type = y.type and not only_targeted
                                 order by t.priority desc, t.id limit least(quantity, y.cap))
                                union all
                                (select t.type, true, t.priority, t.id from tasks t
                                 where t.status = 'fresh' and t.node = own_node and t.type = y.type
                                 order by t.priority desc, t.id limit least(quantity, y.cap))) either
                            order by either.priority desc, either.id limit y.cap) f
                        order by f.priority desc, f.id limit quantity) c
                    group by c.type, c.targeted) s
                cross join lateral (
                    select * from (
                        select t.id, t.priority from tasks t
                        where t.status = 'fresh' and t.node is null and t.type = s.type and not s.targeted
                        order by t.priority desc, t.id limit s.share
                        for update skip locked) ordinary
                    union all
                    select * from (
                        select t.id, t.priority from tasks t
                        where t.status = 'fresh' and t.node = own_node and t.type = s.type and s.targeted
                        order by t.priority desc, t.id limit s.share
                        for update skip locked) targeted) l
                order by l.priority desc, l.id);
        end if;
    elsif only_targeted and ids is null then
        return;  -- lanes hold nothing that names a node
    elsif ids is null and caps is null and cardinality(lane_types) = 1 then
        chosen := array(
            select t.id from tasks t
            where t.status = 'fresh' and t.node is null
              and t.type = lane_types[1] and t.priority = lane_priorities[1] and t.id > lane_after[1]
            order by t.id limit quantity
            for update skip locked);
    elsif ids is null and caps is null then
        chosen := array(
            select l.id from (
                select c.type, c.priority, c.after, count(*) as share from (
                    select f.type, f.priority, f.id, y.after
                    from unnest(lane_types, lane_priorities, lane_after) y(type, priority, after) cross join lateral (
                        select t.type, t.priority, t.id from tasks t
                        where t.status = 'fresh' and t.node is null
                          and t.type = y.type and t.priority = y.priority and t.id > y.after
                        order by t.id limit quantity) f
                    order by f.priority desc, f.id limit quantity) c
                group by c.type, c.priority, c.after) s
            cross join lateral (
                select t.id, t.priority from tasks t
                where t.status = 'fresh' and t.node is null
                  and t.type = s.type and t.priority = s.priority and t.id > s.after
                order by t.id limit s.share
                for update skip locked) l
            order by l.priority desc, l.id);
    else
        -- Under limits, and of ids and lanes together: each type's own in one order, and then all.
        chosen := array(
            with told as materialized (
                select t.type, t.priority, t.id from tasks t
                where t.id = any (ids) and t.status is not distinct from 'fresh' and t.type = any (types)
                  and case when t.node is null then not only_targeted else t.node = own_node end
                  and (t.node is not null or not exists (
                      select from unnest(lane_types, lane_priorities, lane_after) y(type, priority, after)
                      where y.type = t.type and y.priority = t.priority and t.id > y.after)))
            select l.id from (
                select c.type, c.priority, c.after, count(*) as share from (
                    select f.type, f.priority, f.id, f.after from unnest(types, caps) y(type, cap) cross join lateral (
                        select * from (
                            (select n.type, n.priority, n.id, s.after
                             from unnest(lane_types, lane_priorities, lane_after) s(type, priority, after)
                             cross join lateral (
                                 select t.type, t.priority, t.id from tasks t
                                 where t.status = 'fresh' and t.node is null
                                   and t.type = s.type and t.priority = s.priority and t.id > s.after
                                 order by t.id limit least(quantity, y.cap)) n
                             where s.type = y.type and not only_targeted)
                            union all
                            (select t.type, t.priority, t.id, null from told t where t.type = y.type)) either
                        order by either.priority desc, either.id limit least(quantity, y.cap)) f
                    order by f.priority desc, f.id limit quantity) c
                group by c.type, c.priority, c.after) s
            cross join lateral (
                select * from (
                    select t.id, t.priority from tasks t
                    where t.status = 'fresh' and t.node is null
                      and t.type = s.type and t.priority = s.priority and t.id > s.after
                    order by t.id limit s.share
                    for update skip locked) of_lane
                union all
                select * from (
                    select t.id, t.priority from tasks t
                    where s.after is null and t.status is not distinct from 'fresh'
                      and t.id = any (array(select o.id from told o where o.type = s.type and o.priority = s.priority))
                    order by t.id limit s.share
                    for update skip locked) by_id) l
            order by l.priority desc, l.id);
    end if;

    return query
        with claimed as (
            update tasks t
            set status = 'started', worker = claim_tasks.worker, attempt = t.attempt + 1,
                -- This transaction may have begun before the task was created.
                started_at = greatest(now(), t.created_at), updated_on = greatest(now(), t.created_at),
                limited = nullif(t.type = any (limited_types), false)
            where t.id = any (chosen)
            returning t.id, t.type, t.data, t.created_by, t.attempt, t.priority, t.failure_count,
                      extract(epoch from t.timeout)::double precision, t.checkpoint)
        select * from claimed c order by c.priority desc, c.id;
end $$;
