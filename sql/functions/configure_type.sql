-- What operators set for a type's tasks; null leaves a value as it is, max_running 0 and timeout '0' mean none.
-- `max_running` holds for the tasks that run already, too: the next starts when fewer than that are left.
--
-- A type without a limit is claimed without a count. So the first limit waits until the claims under way have committed, lets
-- no other begin before it commits itself, and marks what runs. Not for long: claims wait for it.
create or replace function configure_type(
    name text, max_running integer default null, timeout interval default null, max_retries integer default null,
    retry_delay interval default null, max_retry_delay interval default null, max_crashes integer default null
) returns void language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set jit = off set plan_cache_mode = force_generic_plan set lock_timeout = '2s'
as $$
#variable_conflict use_column
declare
    before task_types;
begin
    perform require_type(configure_type.name);
    if configure_type.max_running < 0 or configure_type.max_retries not between 0 and 1000
        or configure_type.max_crashes not between 0 and 1000 or configure_type.retry_delay not between '0' and '365 days'
        or configure_type.max_retry_delay not between '0' and '365 days'
    then
        raise exception 'A setting of type % is outside its range.', configure_type.name using
            errcode = 'PF006',
            detail = 'max_running must not be negative; max_retries and max_crashes must be from 0 to 1000, retry_delay and'
                     ' max_retry_delay from 0 to 365 days.';
    end if;
    perform require_placement(nullif(configure_type.timeout, '0'), null);

    select * into before from task_types y where y.name = configure_type.name for no key update;
    if before.max_running is null and configure_type.max_running > 0 then
        perform pg_advisory_xact_lock(7439, 'tasks'::regclass::oid::integer);
        update tasks t set limited = true
        where t.id = any (array(
            select t.id from tasks t
            where t.status = 'started' and t.type = configure_type.name and t.worker <> 'all nodes' and t.limited is not true
            order by t.id for no key update));
    end if;
    update task_types y set
        max_running = nullif(coalesce(configure_type.max_running, y.max_running), 0),
        timeout = nullif(coalesce(configure_type.timeout, y.timeout), '0'),
        max_retries = coalesce(configure_type.max_retries, y.max_retries),
        retry_delay = coalesce(configure_type.retry_delay, y.retry_delay),
        max_retry_delay = coalesce(configure_type.max_retry_delay, y.max_retry_delay),
        max_crashes = coalesce(configure_type.max_crashes, y.max_crashes), updated_on = now()
    where y.name = configure_type.name;
    if before.max_running is not null and (configure_type.max_running = 0 or configure_type.max_running > before.max_running) then
        perform tell_of_room(configure_type.name);
    end if;
end $$;
