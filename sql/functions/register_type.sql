-- A worker's handler says what its type is; an operator's later change to the row is kept.
create or replace function register_type(
    name text, description text default '', for_readers boolean default false, max_retries integer default 0,
    retry_delay interval default '10 seconds', timeout interval default null, max_running integer default null,
    max_retry_delay interval default '1 hour'
) returns void language sql as $$
    insert into task_types as t
        (name, description, for_readers, max_retries, retry_delay, timeout, max_running, max_retry_delay)
    values (name, description, for_readers, max_retries, retry_delay, timeout, max_running, max_retry_delay)
    on conflict do nothing;
$$;
