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
begin
    -- The functions run after, and in the order of, what the CTE let through; without it a hash join decides.
    with allowed as materialized (
        select w.* from json_to_recordset(insert_allowed_tasks.rows) as w(
            n integer, type text, data text, created_by bigint, any_type boolean, priority integer, run_at timestamptz,
            delay double precision, max_retries integer, retry_delay double precision, unique_key text,
            timeout double precision, node text)
        join task_types y on y.name = w.type and (y.for_readers or w.any_type)
        order by w.n)
    select array_agg(w.n), array_agg(t.id), array_agg(t.created), array_agg(t.id) filter (where t.created)
    into numbers, insert_allowed_tasks.ids, insert_allowed_tasks.created, news
    from allowed w cross join lateral insert_task(
        w.type, w.data, w.created_by, priority => w.priority,
        run_at => coalesce(w.run_at, now() + make_interval(secs => w.delay)), max_retries => w.max_retries,
        retry_delay => make_interval(secs => w.retry_delay), unique_key => w.unique_key,
        timeout => make_interval(secs => w.timeout), node => w.node) t;
    if tell and news is not null then
        commit;
        perform set_config('synchronous_commit', 'off', true);
        sleepers := tell_sleepers(news);
    end if;
end $$;
