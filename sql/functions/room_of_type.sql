-- How many more tasks of a type may be started under its max_running; null where it has none.
-- Counts through tasks_limited, which holds what was claimed under a limit and runs. Exact for whoever holds the lock `limits`.
create or replace function room_of_type(type text) returns integer language plpgsql volatile
set enable_seqscan = off set enable_bitmapscan = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    most integer := (select y.max_running from task_types y where y.name = room_of_type.type);
begin
    return most - (
        select count(*) from (
            select from tasks t where t.status = 'started' and t.limited and t.type = room_of_type.type limit most) running);
end $$;
