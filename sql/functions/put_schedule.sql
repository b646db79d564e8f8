-- Makes a schedule, or makes the one of that name so, whoever else does the same at the time: one after the other, and the
-- last says how it is. Answers created, changed or unchanged; unchanged wakes nobody.
--
-- `triggers` is a JSON array, each of
--   {"kind": "interval", "every": 3600 or "1 hour", "fixed_delay": false}      {"kind": "event", "event": "library.imported"}
--   {"kind": "cron", "cron": "0 2 * * *", "due_at": "2026-01-01T02:00:00Z"}    {"kind": "once", "at": "2026-…"} or {…, "after": 60}
-- with seconds as numbers. `due_at`: when a new trigger is due first; left out, an interval is after one `every`, a cron
-- expression, which SQL can't read, is worked out by the first firing worker that looks.
-- A trigger that it has already keeps its clock, a one-time one that has fired stays done.
-- `enabled` null: as it is, or true for a new one; so what an operator disabled stays so when code registers it anew.
create or replace function put_schedule(
    name text, type text, data text default null, triggers jsonb default '[]', task_group text default 'default',
    description text default '', created_by bigint default 0, priority integer default 0, enabled boolean default null,
    max_retries integer default null, retry_delay interval default null, timeout interval default null,
    node text default null, all_nodes boolean default false, overlap text default 'skip', catch_up text default 'once',
    catch_up_limit integer default 100, time_zone text default 'UTC', declared boolean default false
) returns text language plpgsql
set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    before schedules;
    problem text;
    created boolean;
    changed boolean;
    retimed boolean;
begin
    perform require_type(put_schedule.type);
    perform require_placement(put_schedule.timeout, put_schedule.node);
    problem := case
        when name is null or name !~ '^[A-Za-z0-9_]([A-Za-z0-9_.: -]{0,98}[A-Za-z0-9_.:-])?$'
            then 'name must have 1 to 100 letters, digits, spaces and _ . : -'
        when overlap is null or overlap not in ('skip', 'queue', 'allow') then 'overlap must be skip, queue or allow'
        when catch_up is null or catch_up not in ('none', 'once', 'all') then 'catch_up must be none, once or all'
        when catch_up_limit is null or catch_up_limit not between 1 and 10000 then 'catch_up_limit must be from 1 to 10000'
        when max_retries not between 0 and 1000 then 'max_retries must be from 0 to 1000'
        when retry_delay not between '0' and '365 days' then 'retry_delay must be from 0 to 365 days'
        when all_nodes and node is not null then 'node and all_nodes exclude each other'
        when jsonb_typeof(triggers) is distinct from 'array' then 'triggers must be an array'
        when num_nulls(time_zone, task_group, description, created_by, priority, all_nodes, declared) > 0
            then 'only data, enabled, max_retries, retry_delay, timeout and node may be null'
    end;
    begin
        perform now() at time zone put_schedule.time_zone;
    exception when invalid_parameter_value then
        problem := format('no time zone is called "%s"', put_schedule.time_zone);
    end;
    if problem is not null then
        raise exception 'Schedule "%" can''t be: %.', put_schedule.name, problem using errcode = 'PF006';
    end if;

    loop  -- another may remove it between the two
        insert into schedules as s (name, type, enabled, time_zone, all_nodes, declared)
        values (put_schedule.name, put_schedule.type, coalesce(put_schedule.enabled, true), put_schedule.time_zone, false, false)
        on conflict do nothing;  -- of the name or of the id made from it: two who put the same name at once meet at either
        created := found;
        select * into before from schedules s where s.name = put_schedule.name for update;
        exit when found;
    end loop;
    update schedules s set
        type = put_schedule.type, data = put_schedule.data, task_group = put_schedule.task_group,
        description = put_schedule.description, created_by = put_schedule.created_by, priority = put_schedule.priority,
        max_retries = put_schedule.max_retries, retry_delay = put_schedule.retry_delay, timeout = put_schedule.timeout,
        node = put_schedule.node, all_nodes = put_schedule.all_nodes, overlap = put_schedule.overlap,
        catch_up = put_schedule.catch_up, catch_up_limit = put_schedule.catch_up_limit,
        time_zone = put_schedule.time_zone, declared = s.declared or put_schedule.declared,
        updated_on = case when not created then now() end
    where s.name = put_schedule.name
      and (s.type, s.data, s.task_group, s.description, s.created_by, s.priority, s.max_retries, s.retry_delay, s.timeout,
           s.node, s.all_nodes, s.overlap, s.catch_up, s.catch_up_limit, s.time_zone, s.declared)
          is distinct from
          (put_schedule.type, put_schedule.data, put_schedule.task_group, put_schedule.description,
           put_schedule.created_by, put_schedule.priority, put_schedule.max_retries, put_schedule.retry_delay,
           put_schedule.timeout, put_schedule.node, put_schedule.all_nodes, put_schedule.overlap,
           put_schedule.catch_up, put_schedule.catch_up_limit, put_schedule.time_zone,
           s.declared or put_schedule.declared);
    changed := found;
    if put_schedule.enabled <> before.enabled then
        perform enable_schedule(put_schedule.name, put_schedule.enabled);
        changed := true;
    end if;
    retimed := put_triggers(put_schedule.name, put_schedule.triggers, before.time_zone <> put_schedule.time_zone);
    if not (created or changed or retimed) then
        return 'unchanged';
    end if;
    perform pg_notify('schedules_changed', put_schedule.name);
    return case when created then 'created' else 'changed' end;
end $$;
