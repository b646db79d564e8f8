-- What nothing starts by itself any more, because it is disabled, can't be fired, or has ended badly, begins anew: it is
-- enabled, or its triggers are tried again now, or it gets a new run. Refused while it is waiting, ready or going, and where
-- all is done. Its failures are counted from 0 where asked.
create or replace function retry_schedule(name text, reset_failure_count boolean default false) returns void
language plpgsql
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    its schedules := require_schedule(retry_schedule.name);
    status text := (select st.status from schedule_statuses(array[its.name]) st);
begin
    if status not in ('failure', 'crashed', 'cancelled') then
        raise exception 'Schedule "%" can''t be retried: it is %.', its.name, status using
            errcode = 'PF003', detail = 'Only one that is failure, crashed or cancelled can be retried.';
    end if;
    if reset_failure_count then
        while exists (select from run_ends e where e.schedule = its.name) loop
            perform account_for_runs(its.name);
        end loop;
        update schedules s set failures = 0 where s.name = its.name;
    end if;
    if not its.enabled then
        perform enable_schedule(its.name);
        return;
    end if;
    update triggers t set problem = null, unaimed = t.kind = 'cron', due_at = coalesce(t.at, now())
    where t.schedule = its.name and t.problem is not null;
    if found then
        perform pg_notify('schedules_changed', its.name);
    else
        perform make_run(its, null, its.data);
    end if;
end $$;
