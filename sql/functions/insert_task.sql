-- (nothing) -> fresh, or waiting while its time is still to come. Tells nobody: see create_task and notify_tasks.
-- With a unique_key, an unfinished task of the same type and key is answered instead of a second row.
create or replace function insert_task(
    type text, data text, created_by bigint,
    priority integer default 0, run_at timestamptz default null, max_retries integer default null,
    retry_delay interval default null, unique_key text default null, timeout interval default null, node text default null,
    out id bigint, out created boolean
) language plpgsql as $$
#variable_conflict use_column
declare
    first_status text := case when insert_task.run_at > now() then 'waiting' else 'fresh' end;
begin
    if insert_task.created_by is null then
        raise exception 'A task needs created_by, the id of the user it is made for.' using errcode = 'PF006';
    end if;
    -- What most tasks leave out is not looked at one by one: each look costs a new transaction 2 us, and one that comes after
    -- a pause, with cold caches, three times as much.
    if num_nonnulls(insert_task.run_at, insert_task.max_retries, insert_task.retry_delay, insert_task.unique_key,
                    insert_task.timeout, insert_task.node) > 0
    then
        perform require_type(insert_task.type);
        if insert_task.max_retries not between 0 and 1000 or insert_task.retry_delay not between '0' and '365 days' then
            raise exception 'max_retries must be from 0 to 1000 and retry_delay from 0 to 365 days.' using
                errcode = 'PF006',
                detail = format('Got %s and %s.', coalesce(insert_task.max_retries::text, 'null'),
                                coalesce(insert_task.retry_delay::text, 'null'));
        end if;
        -- Others, infinity among them, could be stored, but hardly any client can read them: the whole list would be lost to it.
        if insert_task.run_at not between '0001-01-02 00:00+00' and '9999-12-30 00:00+00' then
            raise exception 'run_at must lie in the years 1 to 9999.' using
                errcode = 'PF006', detail = format('Got %s.', insert_task.run_at);
        end if;
        if insert_task.unique_key = '' then
            raise exception 'unique_key must not be empty.' using
                errcode = 'PF006', hint = 'Leave it out for a task of which there may be many.';
        end if;
        perform require_placement(insert_task.timeout, insert_task.node);
    end if;

    if insert_task.unique_key is null then
        loop  -- again only where the type became known in between
            insert into tasks as t (type, data, status, created_by, priority, run_at, max_retries, retry_delay, timeout, node)
            select y.name, insert_task.data, first_status, insert_task.created_by,
                   coalesce(insert_task.priority, 0), insert_task.run_at, insert_task.max_retries, insert_task.retry_delay,
                   insert_task.timeout, insert_task.node
            from task_types y where y.name = insert_task.type
            returning t.id, true into insert_task.id, insert_task.created;
            exit when found;
            perform require_type(insert_task.type);
        end loop;
        return;
    end if;

    -- The holder of the key may finish between our insert and our look: then the insert has its turn again.
    loop
        insert into tasks as t (type, data, status, created_by, priority, run_at, max_retries, retry_delay, timeout, node,
                                unique_key)
        values (insert_task.type, insert_task.data, first_status, insert_task.created_by,
                coalesce(insert_task.priority, 0), insert_task.run_at, insert_task.max_retries, insert_task.retry_delay,
                insert_task.timeout, insert_task.node, insert_task.unique_key)
        on conflict (type, unique_key)
            where unique_key is not null and status in ('waiting', 'fresh', 'started') do nothing
        returning t.id, true into insert_task.id, insert_task.created;
        exit when found;
        select t.id, false into insert_task.id, insert_task.created from tasks t
        where t.type = insert_task.type and t.unique_key = insert_task.unique_key
          and t.status in ('waiting', 'fresh', 'started');
        exit when found;
    end loop;
end $$;
