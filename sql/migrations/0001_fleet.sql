-- The house: task types, workers, tasks, exports. Append-only: what has been released is never edited.
-- Figures: 100,000 no-op tasks in batches of 500, Postgres 18.4, 2 cores; claim + settle is 16.4 µs a task on B.

create table task_types (
    name         text primary key check (name ~ '^[a-z][a-z0-9_.-]{0,99}$'),
    description  text not null default '',
    for_readers  boolean not null default false,          -- may an end user create it, or only an admin?
    max_retries  integer not null default 0 check (max_retries between 0 and 1000),
    retry_delay  interval not null default '10 seconds' check (retry_delay between '0' and '365 days'),
    max_crashes  integer not null default 2 check (max_crashes between 0 and 1000),  -- rescues before `crashed`
    timeout      interval check (timeout > '0'),
    created_at   timestamptz not null default now(),
    updated_on   timestamptz
);

create table workers (
    id               text primary key,                    -- nickname:UUID, or the bare UUID
    node             text not null,
    types            text[] not null,
    concurrency      integer not null check (concurrency > 0),
    version          text not null,
    started_at       timestamptz not null default now(),
    renewed_at       timestamptz not null default now(),
    lease            interval not null check (lease > '0'),
    lease_expires_at timestamptz not null,
    sleeping         boolean not null default true,       -- false: it looks by itself, nobody need wake it
    lost_at          timestamptz                          -- set by the rescuer: this worker must register anew
) with (fillfactor = 50);  -- one page, renewed for ever: room for HOT updates

create table tasks (
    id            bigint generated always as identity primary key,
    type          text not null,                          -- no foreign key: its lock on one hot row costs every insert
    data          text,
    status        text not null default 'fresh'
        check (status in ('waiting', 'fresh', 'started', 'success', 'failure', 'crashed', 'cancelled')),
    worker        text,
    created_at    timestamptz not null default now(),
    updated_on    timestamptz,
    created_by    bigint not null,
    priority      integer not null default 0,
    run_at        timestamptz,
    attempt       integer not null default 0,             -- the fencing number: every start, never reset
    failure_count integer not null default 0,
    crash_count   integer not null default 0,
    started_at    timestamptz,
    max_retries   integer check (max_retries between 0 and 1000),    -- null: its type's
    retry_delay   interval check (retry_delay between '0' and '365 days'),               -- null: its type's
    unique_key    text,
    result        text,
    error         text,                                   -- what a reader may see
    error_detail  text,                                   -- the traceback, for operators
    constraint a_started_task_has_a_worker check (status <> 'started' or (worker is not null and started_at is not null)),
    constraint a_task_not_yet_taken_has_no_worker check (status not in ('fresh', 'waiting') or worker is null),
    constraint a_waiting_task_has_a_due_time check (status <> 'waiting' or run_at is not null)
) with (
    -- Two updates a row: 30 % room keeps new versions on the old one's page. 855 instead of 940 bytes of WAL a task.
    fillfactor = 70
);

-- What a claim walks: one type's ready tasks, most urgent first. Other types, finished rows: not in its way.
create index tasks_fresh on tasks (type, priority desc, id) where status = 'fresh';
-- A lane of a claim names a type and a priority. Where statistics know but one of each, the primary key would seem as
-- good as tasks_fresh, and a claim that looks into an empty lane would read every row behind its watermark.
alter table tasks alter column type set (n_distinct = 1000), alter column priority set (n_distinct = 1000);
-- What a rescue walks. Costs 1.1 µs of 17.5 µs a task; without it a rescue reads the whole table.
create index tasks_started on tasks (worker) where status = 'started';
create index tasks_waiting on tasks (run_at) where status = 'waiting';
create unique index tasks_unique_key on tasks (type, unique_key)
    where unique_key is not null and status in ('waiting', 'fresh', 'started');
-- A reader's own list. The fleet's own tasks (created_by 0) are nobody's list.
create index tasks_of_a_reader on tasks (created_by, id) where created_by > 0;

create sequence exports_id;  -- an identity column on a partitioned table needs Postgres 17
create table exports (
    id         bigint not null default nextval('exports_id'),
    filename   text not null check (filename ~ '^[A-Za-z0-9_.-]+$'),
    owner_id   bigint not null,
    created_at timestamptz not null default now(),
    task_id    bigint not null,
    format     text not null,
    bytes      bigint not null check (bytes >= 0),
    sha256     text not null check (sha256 ~ '^[0-9a-f]{64}$'),
    primary key (id, format),
    unique (filename, format)
) partition by list (format);
alter sequence exports_id owned by exports.id;
create table csv_export partition of exports for values in ('csv');
create index exports_of_an_owner on exports (owner_id, id);

insert into task_types (name, description, for_readers)
values ('csv_export', 'Write a reader''s books and notes to a CSV file on the shared volume.', true);
