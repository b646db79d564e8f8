-- (nothing) -> fresh or waiting, for tasks of all sorts, each in the name of a user; with `tell` the fleet hears of them.
-- Those of a type that is unknown or not the caller's are passed over; of all others all are inserted, or none.
--
-- A procedure, so that one round trip does what the API needs in two transactions: the insert's commit, which waits for its
-- flush, and then the NOTIFY, which must not come with it (see create_task) and waits for nothing: a crash loses but a hint.
-- For a lone task that is half a millisecond less than a second round trip by another thread.
-- With `tell` it can't run inside a transaction: Postgres says so (2D000) before anything is committed.
create or replace procedure insert_allowed_tasks(
    rows json, tell boolean, inout numbers integer[], inout ids bigint[], inout created boolean[], inout sleepers integer
) language plpgsql as $$
declare
    news bigint[];
    others record;
begin
    -- What asks for nothing special, as most do, in one insert: eight took 2.7 ms by insert_task, a statement each, and 1.2 so.
    with plain as materialized (
        select w.* from json_to_recordset(insert_allowed_tasks.rows) as w(
            n integer, type text, data text, created_by bigint, any_type boolean, priority integer, run_at text, delay text,
            max_retries text, retry_delay text, unique_key text, timeout text, node text)
        join task_types y on y.name = w.type and (y.for_readers or w.any_type)
        where num_nonnulls(w.run_at, w.delay, w.max_retries, w.retry_delay, w.unique_key, w.timeout, w.node) = 0
          and w.created_by is not null
        order by w.n),
    made as (
        insert into tasks as t (type, data, created_by, priority)
        select p.type, p.data, p.created_by, coalesce(p.priority, 0) from plain p order by p.n
        returning t.id)
    select (select array_agg(p.n order by p.n) from plain p), array_agg(m.id), array_agg(true)
    into numbers, insert_allowed_tasks.ids, insert_allowed_tasks.created
    from made m;
    news := insert_allowed_tasks.ids;

    if coalesce(cardinality(numbers), 0) < json_array_length(insert_allowed_tasks.rows) then
        -- The functions run after, and in the order of, what the CTE let through; without it a hash join decides.
        with allowed as materialized (
            select w.* from json_to_recordset(insert_allowed_tasks.rows) as w(
                n integer, type text, data text, created_by bigint, any_type boolean, priority integer, run_at timestamptz,
                delay double precision, max_retries integer, retry_delay double precision, unique_key text,
                timeout double precision, node text)
            join task_types y on y.name = w.type and (y.for_readers or w.any_type)
            where w.n <> all (coalesce(numbers, '{}'))
            order by w.n)
        select array_agg(w.n) as numbers, array_agg(t.id) as ids, array_agg(t.created) as created,
               array_agg(t.id) filter (where t.created) as news
        into others
        from allowed w cross join lateral insert_task(
            w.type, w.data, w.created_by, priority => w.priority,
            run_at => coalesce(w.run_at, now() + make_interval(secs => w.delay)), max_retries => w.max_retries,
            retry_delay => make_interval(secs => w.retry_delay), unique_key => w.unique_key,
            timeout => make_interval(secs => w.timeout), node => w.node) t;
        numbers := numbers || others.numbers;
        insert_allowed_tasks.ids := insert_allowed_tasks.ids || others.ids;
        insert_allowed_tasks.created := insert_allowed_tasks.created || others.created;
        news := news || others.news;
    end if;
    if tell and news is not null then
        commit;
        perform set_config('synchronous_commit', 'off', true);
        sleepers := tell_sleepers(news);
    end if;
end $$;
