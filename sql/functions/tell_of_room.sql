-- Under a type's max_running there is room again, or more: wake sleeping workers for the first that wait for it.
-- Awake ones find them by looking. Once for each type and transaction: at the commit, when all is settled.
--
-- The order is what leaves no task unseen: first the lock `limits`, shared and kept until the commit, then the look. A claim
-- that came before us was for a task that we see; one that comes after us waits until our room can be counted.
create or replace function tell_of_room(type text) returns void language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    most constant integer := 16;  -- a wake-up for each task that fits; where more do, those woken look further
    told text := coalesce(current_setting('pgfleet.told_of_room', true), '');
    waiting bigint[];
begin
    if tell_of_room.type = any (string_to_array(told, ',')) then
        return;
    end if;
    perform set_config('pgfleet.told_of_room', told || ',' || tell_of_room.type, true);
    perform pg_advisory_xact_lock_shared(7440, 'tasks'::regclass::oid::integer);
    waiting := array(
        select t.id from tasks t
        where t.status = 'fresh' and t.node is null and t.type = tell_of_room.type
        order by t.priority desc, t.id limit most)
    || array(
        select t.id from (select distinct w.node from workers w where w.lost_at is null) w cross join lateral (
            select t.id from tasks t
            where t.status = 'fresh' and t.node = w.node and t.type = tell_of_room.type
            order by t.priority desc, t.id limit most) t);
    if waiting <> '{}' then
        perform ring_bell(waiting);
    end if;
end $$;
