-- What the soak knows of the tasks without asking pgfleet's own columns afterwards: a row for every change of a task's
-- status, attempt or holder, written in the transaction that makes it.
create schema soak;

create table soak.audit (
    seq           bigint generated always as identity primary key,
    at            timestamptz not null default clock_timestamp(),
    began         timestamptz not null default now(),  -- its transaction
    task_id       bigint not null,
    type          text,
    old_status    text,      -- null: the task is new
    new_status    text,      -- null: the task was deleted
    old_attempt   integer,
    new_attempt   integer,
    old_worker    text,
    new_worker    text,
    failure_count integer,
    crash_count   integer,
    application   text not null default current_setting('application_name')
);

create function soak.note() returns trigger language plpgsql as $$
begin
    insert into soak.audit (task_id, type, old_status, new_status, old_attempt, new_attempt, old_worker, new_worker,
                            failure_count, crash_count)
    values (coalesce(new.id, old.id), coalesce(new.type, old.type), old.status, new.status, old.attempt, new.attempt,
            old.worker, new.worker, new.failure_count, new.crash_count);
    return null;
end $$;

create trigger soak_arrival after insert or delete on tasks for each row execute function soak.note();
create trigger soak_change after update on tasks for each row
    when ((old.status, old.attempt, old.worker, old.crash_count, old.failure_count)
          is distinct from (new.status, new.attempt, new.worker, new.crash_count, new.failure_count))
    execute function soak.note();
