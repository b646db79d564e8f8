-- One due trigger (see due_triggers, in the same transaction): its runs are made, and its clock is set on, together.
--   due_times  the due times to make a run for, in order: one, several where missed ones are caught up, or none;
--   next_due   the next one, later than all of them; null: off the clock (one-time, or waiting for its run's end);
--   skipped    how many due times are not made up for, and `reason`, why.
-- Neither due times nor a next one nor anything skipped: it can't be fired, is off the clock, and `reason` is its problem.
-- Where a run of the schedule is unfinished its overlap rule decides: skip drops this due time, queue owes one run, allow
-- makes it. Several due times at once are caught up one after the other, except under allow; a one-time trigger, which
-- has no other due time, is owed, not skipped.
-- Answers the new tasks; none where somebody else is firing it or has. A due time fires once even where two triggers of
-- the schedule have it in common: that is the index tasks_due.
create or replace function fire_trigger(
    id bigint, due_times timestamptz[], next_due timestamptz, skipped integer default 0, reason text default null
) returns bigint[] language plpgsql
set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    its triggers;
    its_schedule schedules;
    due timestamptz;
    made bigint;
    runs bigint[] := '{}';
    owes timestamptz[];
    busy boolean;
    shelved boolean := coalesce(due_times, '{}') = '{}' and next_due is null and skipped = 0;
begin
    select * into its from triggers t where t.id = fire_trigger.id and t.due_at is not null for update skip locked;
    if not found then
        return '{}';
    end if;
    select * into its_schedule from schedules s where s.name = its.schedule for update skip locked;
    if not found then
        return '{}';
    end if;
    if its.due_at > now() or next_due <= its.due_at or next_due <= any (due_times) then
        raise exception 'Trigger % must be due, and its next due time be later.', its.id using
            errcode = 'PF006', detail = format('Due at %s, next %s.', its.due_at, next_due),
            hint = 'Ask due_triggers in the same transaction, and work out the next due time from what it answers.';
    end if;

    owes := its_schedule.owed;
    busy := its_schedule.overlap <> 'allow' and (owes <> '{}' or run_is_unfinished(its_schedule.name));
    foreach due in array coalesce(due_times, '{}') loop
        if not busy then
            made := make_run(its_schedule, due, its_schedule.data);
            if made is not null then
                runs := runs || made;
                busy := its_schedule.overlap <> 'allow';
            end if;
        elsif due = any (owes) or exists (select from tasks t where t.schedule = its_schedule.name and t.due_at = due) then
            null;  -- another trigger's due time too
        elsif cardinality(due_times) > 1 or its.kind = 'once' or (its_schedule.overlap = 'queue' and owes = '{}') then
            owes := owes || due;
        else
            skipped := skipped + 1;
            reason := 'overlap';
        end if;
    end loop;

    if skipped > 0 or owes <> its_schedule.owed then
        update schedules s set
            owed = owes, skipped = s.skipped + fire_trigger.skipped,
            last_skipped_at = case when fire_trigger.skipped > 0 then now() else s.last_skipped_at end,
            last_skip_reason = case when fire_trigger.skipped > 0 then fire_trigger.reason else s.last_skip_reason end
        where s.name = its_schedule.name;
    end if;
    update triggers t set
        due_at = next_due, unaimed = false,
        done_at = case when t.kind = 'once' and not shelved then now() end,
        problem = case when shelved then fire_trigger.reason end
    where t.id = its.id;
    return runs;
end $$;
