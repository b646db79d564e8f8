-- Schedules: work that starts by itself, on a clock, on an event, or once. Fired by any worker, without a leader.

create table schedules (
    name             text primary key check (name ~ '^[A-Za-z0-9_]([A-Za-z0-9_.: -]{0,98}[A-Za-z0-9_.:-])?$'),
    task_group       text not null default 'default',
    description      text not null default '',
    type             text not null,
    data             text,
    created_by       bigint not null default 0,
    priority         integer not null default 0,
    enabled          boolean not null default true,
    enabled_at       timestamptz,                         -- again: what came due before, while disabled, is not caught up
    max_retries      integer check (max_retries between 0 and 1000),         -- null: its type's
    retry_delay      interval check (retry_delay between '0' and '365 days'),
    timeout          interval check (timeout > '0'),
    node             text,                                -- only this server's workers take its runs
    all_nodes        boolean not null default false,      -- each run is a task for all nodes
    overlap          text not null default 'skip' check (overlap in ('skip', 'queue', 'allow')),
    catch_up         text not null default 'once' check (catch_up in ('none', 'once', 'all')),
    catch_up_limit   integer not null default 100 check (catch_up_limit between 1 and 10000),
    time_zone        text not null default 'UTC',
    declared         boolean not null default false,      -- by code: stale once no live worker declares it
    created_at       timestamptz not null default now(),
    updated_on       timestamptz,
    owed             timestamptz[] not null default '{}', -- due times whose runs wait for the run before to end
    -- As of the runs whose end has been accounted for (end_runs); queries/schedules.sql adds the others.
    last_task        bigint,
    last_run_at      timestamptz,
    last_ended_at    timestamptz,
    last_status      text,
    successes        bigint not null default 0,
    failures         bigint not null default 0,
    skipped          bigint not null default 0,
    last_skipped_at  timestamptz,
    last_skip_reason text,
    constraint a_run_is_for_one_node_or_for_all check (not all_nodes or node is null)
);
create index schedules_owed on schedules (name) where owed <> '{}';

create table triggers (
    id          bigint generated always as identity primary key,
    schedule    text not null references schedules on delete cascade,
    kind        text not null check (kind in ('interval', 'cron', 'event', 'once')),
    every       interval check (every between '10 milliseconds' and '3650 days'),
    fixed_delay boolean not null default false,           -- `every` counts from the end of the run before
    cron        text,
    event       text,
    at          timestamptz,
    after       interval,                                 -- `at` was asked for as this long after the schedule was put
    due_at      timestamptz,                              -- null: not on the clock now
    unaimed     boolean not null default false,           -- due_at is no due time, but when to work out the first
    paused      boolean not null default false,           -- its schedule is disabled
    created_at  timestamptz not null default now(),
    done_at     timestamptz,                              -- a one-time trigger that has fired
    problem     text,                                     -- why it can't be fired: a cron expression that is none
    constraint a_trigger_is_of_one_kind check (
        (every is not null) = (kind = 'interval') and (cron is not null) = (kind = 'cron')
        and (event is not null) = (kind = 'event') and (at is not null) = (kind = 'once')
        and (kind = 'interval' or not fixed_delay) and (kind = 'once' or after is null)
        and (kind <> 'event' or due_at is null))
);
create index triggers_of_a_schedule on triggers (schedule);
-- What a firing worker walks, and what tells it how long it may sleep. A disabled schedule is not in its way.
create index triggers_due on triggers (due_at) where due_at is not null and not paused;
create index triggers_on_event on triggers (event) where event is not null;
create index triggers_resting on triggers (schedule) where fixed_delay and due_at is null;

-- Runs that have ended, until a firing worker has accounted for them. A ledger, because the settles of two batches that
-- updated their schedules' rows in different orders would deadlock: an insert waits for nobody.
create table run_ends (
    id       bigint generated always as identity primary key,
    schedule text not null,
    task     bigint not null,
    run_at   timestamptz not null,
    status   text not null,
    ended_at timestamptz not null default now()
);
create index run_ends_of_a_schedule on run_ends (schedule, id);

-- Is all firing stopped? One row. Events that come meanwhile are held, in order.
create table firing (
    stopped boolean not null default false,
    changed timestamptz not null default now(),
    one     boolean primary key default true check (one)
);
insert into firing default values;
create table held_events (
    id         bigint generated always as identity primary key,
    name       text not null,
    payload    jsonb,
    emitted_at timestamptz not null default now()
);

alter table workers
    add column declares text[] not null default '{}',     -- the schedules its code declares
    add column memory_schedules jsonb;                    -- those it keeps in memory, and how they do

alter table tasks
    add column schedule text,                             -- the schedule whose run this is
    add column due_at timestamptz;                        -- the due time it was fired for; null: by an event or by hand

-- The lock behind "each due time fires once". All three are free for tasks without a schedule.
create unique index tasks_due on tasks (schedule, due_at) where schedule is not null and due_at is not null;
create index tasks_of_a_schedule on tasks (schedule, id) where schedule is not null;
create index tasks_unfinished_runs on tasks (schedule)
    where schedule is not null and status in ('waiting', 'fresh', 'started');

-- The function's body comes with the functions. Here, so that applying those anew needs no lock on tasks.
create function end_run() returns trigger language plpgsql as 'begin return null; end';
create trigger runs_end after update of status on tasks for each row
    when (new.schedule is not null and new.status <> old.status and new.status in ('success', 'failure', 'crashed', 'cancelled'))
    execute function end_run();
