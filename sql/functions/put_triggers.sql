-- The triggers of a schedule that the caller has locked become these (see put_schedule); those it has already keep their
-- clocks, but cron expressions do not where the time zone they are read in is another. One that could not be fired is tried
-- anew: what kept it from that may have been mended elsewhere, in a type or in the workers' code. Answers whether any is another.
create or replace function put_triggers(schedule text, triggers jsonb, rezoned boolean) returns boolean language plpgsql
set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    one jsonb;
    wanted triggers;
    same bigint;
    kept bigint[] := '{}';
    changed boolean := false;
    problem text;
begin
    for one in select e.value from jsonb_array_elements(put_triggers.triggers) e loop
        begin
            wanted.kind := one ->> 'kind';
            wanted.every := seconds_or_interval(one -> 'every');
            wanted.fixed_delay := coalesce((one ->> 'fixed_delay')::boolean, false);
            wanted.cron := one ->> 'cron';
            wanted.event := one ->> 'event';
            wanted.after := seconds_or_interval(one -> 'after');
            wanted.at := coalesce((one ->> 'at')::timestamptz, now() + wanted.after);
            wanted.due_at := (one ->> 'due_at')::timestamptz;
            problem := case
                when wanted.kind is null or wanted.kind not in ('interval', 'cron', 'event', 'once')
                    then 'kind must be interval, cron, event or once'
                when (wanted.every is not null) <> (wanted.kind = 'interval') or (wanted.cron is not null) <> (wanted.kind = 'cron')
                    or (wanted.event is not null) <> (wanted.kind = 'event') or (wanted.at is not null) <> (wanted.kind = 'once')
                    or (wanted.fixed_delay and wanted.kind <> 'interval') or (wanted.kind = 'event' and wanted.due_at is not null)
                    then 'an interval needs every, cron needs cron, event needs event, once needs at or after, and no other'
                when wanted.every not between '10 milliseconds' and '3650 days' then 'every must be from 0.01 seconds to 3650 days'
                when wanted.after < '0' then 'after must not be below 0'
                -- As of a task's run_at: one that a client can't read takes the whole list from it.
                when wanted.at not between '0001-01-02 00:00+00' and '9999-12-30 00:00+00'
                    or wanted.due_at not between '0001-01-02 00:00+00' and '9999-12-30 00:00+00'
                    then 'a time must lie in the years 1 to 9999'
                -- No backslashes: with standard_conforming_strings off they would be gone.
                when wanted.cron !~ '^(@[a-z]+|[^[:space:]]+([[:space:]]+[^[:space:]]+){4,5})$' then 'cron must have 5 or 6 fields, or be one like @hourly'
                when wanted.event !~ '^[A-Za-z0-9_]([A-Za-z0-9_.: -]{0,98}[A-Za-z0-9_.:-])?$'
                    then 'event must have 1 to 100 letters, digits, spaces and _ . : -'
            end;
        exception when data_exception then
            problem := sqlerrm;
        end;
        if problem is not null then
            raise exception 'Schedule "%" can''t have this trigger: %.', put_triggers.schedule, problem using
                errcode = 'PF006', detail = format('Got %s.', one);
        end if;

        same := (
            select t.id from triggers t
            where t.schedule = put_triggers.schedule and t.kind = wanted.kind and t.every is not distinct from wanted.every
              and t.fixed_delay = wanted.fixed_delay and t.event is not distinct from wanted.event
              and t.cron is not distinct from wanted.cron and t.after is not distinct from wanted.after
              and (t.at is not distinct from wanted.at or t.after is not null)
              and (t.kind <> 'cron' or not rezoned or t.id = any (kept))
            limit 1);
        if same is null then
            insert into triggers as t (schedule, kind, every, fixed_delay, cron, event, at, after, due_at, unaimed, paused)
            select put_triggers.schedule, wanted.kind, wanted.every, wanted.fixed_delay, wanted.cron, wanted.event, wanted.at, wanted.after,
                   coalesce(wanted.due_at, case wanted.kind when 'interval' then now() + wanted.every when 'cron' then now() else wanted.at end),
                   wanted.kind = 'cron' and wanted.due_at is null, not s.enabled
            from schedules s where s.name = put_triggers.schedule
            returning t.id into same;
            changed := true;
        end if;
        update triggers t set
            problem = null, unaimed = t.kind = 'cron' and wanted.due_at is null,
            due_at = coalesce(wanted.due_at, case t.kind when 'interval' then now() + t.every when 'cron' then now() else t.at end)
        where t.id = same and t.problem is not null;
        if found then
            perform pg_notify('schedules_changed', put_triggers.schedule);
        end if;
        kept := kept || same;
    end loop;
    delete from triggers t where t.schedule = put_triggers.schedule and t.id <> all (kept);
    return changed or found;
end $$;
