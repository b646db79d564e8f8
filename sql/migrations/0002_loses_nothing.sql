-- Loses nothing: history, cancelling, timeouts, checkpoints, placement, fleet-wide limits, retention.
-- All of tasks' new columns are null in a task that doesn't use them, so that its rows grow by nothing.

-- Signatures that change. The functions are made anew after the migrations; a new database has none yet.
drop function if exists cancel_task(bigint);
drop function if exists claim_tasks(text, text[], integer, bigint[], text[], integer[], bigint[]);
drop function if exists create_task(text, text, bigint, integer, timestamptz, integer, interval, text);
drop function if exists create_tasks(text, text[], bigint, integer);
drop function if exists deregister_worker(text);
drop function if exists fail_task(text, bigint, integer, text, text, boolean, interval);
drop function if exists finish_export(text, bigint, integer, text, text, bigint, text, bigint, text);
drop function if exists finish_tasks(text, bigint[], integer[], text[]);
drop function if exists insert_task(text, text, bigint, integer, timestamptz, integer, interval, text);
drop function if exists register_type(text, text, boolean, integer, interval, interval);
drop function if exists register_worker(text, text, text[], integer, interval, text);
drop function if exists release_tasks(text, bigint[], integer[], interval);
drop function if exists renew_worker(text);
drop function if exists rescue_tasks();
drop function if exists retry_backoff(interval, integer);

alter table task_types
    add column max_running integer check (max_running > 0),   -- over the whole fleet; null: as many as there is room for
    add column max_retry_delay interval not null default '1 hour'  -- the ceiling of the backoff
        check (max_retry_delay between '0' and '365 days');

-- What each claim looks into, to see whether any of its types has a limit; nearly always empty.
create index task_types_limited on task_types (name) where max_running is not null;

alter table workers
    add column orders text not null default 'work' check (orders in ('work', 'pause', 'drain')),
    add column only_targeted boolean not null default false,  -- takes only what names its node
    add column schedules boolean not null default true;       -- does it see to the fleet's housekeeping?

-- Where each worker ran, for the history of tasks: `workers` forgets the dead.
create table worker_history (
    id         text primary key,
    node       text not null,
    started_at timestamptz not null,
    ended_at   timestamptz                                    -- null: alive, or nobody has noticed yet
);
insert into worker_history (id, node, started_at) select id, node, started_at from workers;

alter table tasks
    add column timeout interval check (timeout > '0'),        -- null: its type's
    add column node text,                                     -- only this server's workers take it
    add column parent bigint,                                 -- the task made for all nodes whose part this is
    add column limited boolean,                               -- true: it was claimed under its type's max_running
    add column cancel_requested_at timestamptz,               -- asked while it was started; its worker will see
    add column current_step text,
    add column progress real check (progress between 0 and 1),
    add column eta timestamptz,                               -- when it may be done, by its pace so far
    add column checkpoint text,                               -- what the next attempt goes on from
    add column cpu_seconds real check (cpu_seconds >= 0),     -- null: not measured
    add column peak_memory bigint check (peak_memory >= 0);   -- bytes; null: not known, as in a thread

-- What an ordinary claim walks holds nothing that it must skip; what names a node has an index of its own.
drop index tasks_fresh;
create index tasks_fresh on tasks (type, priority desc, id) where status = 'fresh' and node is null;
create index tasks_targeted on tasks (node, type, priority desc, id) where status = 'fresh' and node is not null;
create index tasks_limited on tasks (type) where status = 'started' and limited;
create index tasks_cancelling on tasks (worker) where status = 'started' and cancel_requested_at is not null;
create index tasks_parts on tasks (parent) where parent is not null;

-- The attempts before the one in the row.
create table task_attempts (
    task_id      bigint not null references tasks on delete cascade,
    attempt      integer not null,
    worker       text,
    started_at   timestamptz,
    ended_at     timestamptz not null,
    status       text not null check (status in ('success', 'failure', 'released', 'lost', 'crashed', 'cancelled')),
    error        text,
    error_detail text,
    cpu_seconds  real,
    peak_memory  bigint,
    primary key (task_id, attempt)
);

-- The fleet's own chores: one worker at a time, each in small steps.
create table housekeeping (
    chore   text primary key,
    due_at  timestamptz not null default now(),
    cursor  bigint not null default 0                         -- where the next step goes on
);
insert into housekeeping (chore) values ('purge'), ('sweep');

-- One export a task and format. Where a crash of Postgres took a claim back (claims are not flushed), the work may have
-- been done twice under one attempt's number: the later row is the one that the task's result names. The earlier one's
-- file is swept.
delete from exports e using exports later
where later.task_id = e.task_id and later.format = e.format and later.id > e.id;
alter table exports add constraint exports_one_of_a_task unique (task_id, format);

-- Whose files lie on a volume: a fleet that shares one with another must not sweep it.
create table fleet_identity (id uuid primary key default gen_random_uuid());
insert into fleet_identity default values;

-- What ends under its type's limit makes room; a part's end may be its parent's. The function's body comes after the migrations.
-- One trigger for both, since its WHEN clause is paid by every update of every task.
create function after_task() returns trigger language plpgsql as 'begin return null; end';
create constraint trigger after_task after update of status on tasks deferrable initially deferred for each row
    when (new.status <> old.status and (new.parent is not null or old.limited)) execute function after_task();
