-- A hint, never the truth: tells the listeners on `task_created` that these tasks may be ready.
create or replace function notify_tasks(ids bigint[]) returns void language sql as $$
    select pg_notify('task_created', id::text) from unnest(ids) id;
$$;
