-- (nothing) -> fresh: one run of a schedule, waking the fleet. Answers null where that due time has been fired before.
-- A run for all nodes is the task made for all of them. While none lives it is a failure that says so (and a parent whose parts
-- a retry makes): an event must not break the transaction it is part of, nor a due time come again and again.
create or replace function make_run(its schedules, due_at timestamptz, data text) returns bigint language plpgsql
set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    made bigint;
begin
    if not its.all_nodes then
        insert into tasks as t (type, data, created_by, priority, max_retries, retry_delay, timeout, node, schedule, due_at)
        values (its.type, make_run.data, its.created_by, its.priority, its.max_retries,
                its.retry_delay, its.timeout, its.node, its.name, make_run.due_at)
        on conflict (schedule, due_at) where schedule is not null and due_at is not null do nothing
        returning t.id into made;
        if found then
            perform ring_bell(array[made]);
        end if;
        return made;
    end if;
    if exists (select from tasks t where t.schedule = its.name and t.due_at = make_run.due_at) then
        return null;
    end if;
    begin
        made := create_for_all_nodes(its.type, make_run.data, its.created_by, priority => its.priority,
                                     max_retries => its.max_retries, retry_delay => its.retry_delay,
                                     timeout => its.timeout);
        update tasks t set schedule = its.name, due_at = make_run.due_at where t.id = made;
    exception when sqlstate 'PF006' then  -- no live worker serves the type
        insert into tasks as t (type, data, created_by, priority, max_retries, retry_delay, timeout, status, worker, attempt,
                                started_at, updated_on, error, schedule, due_at)
        values (its.type, make_run.data, its.created_by, its.priority, its.max_retries, its.retry_delay, its.timeout,
                'failure', 'all nodes', 1, now(), now(), sqlerrm, its.name, make_run.due_at)
        returning t.id into made;
        insert into run_ends (schedule, task, run_at, status) values (its.name, made, now(), 'failure');
    end;
    return made;
end $$;
