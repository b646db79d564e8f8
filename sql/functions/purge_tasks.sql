-- success, failure, crashed, cancelled -> gone, with history and exports: one step of a walk along the primary key. Looks at
-- `quantity` rows behind the id `after`, and answers where the next step goes on (null: the walk is over), how many went of
-- each status, and the names of the files to remove once this has been committed.
--
-- No index on tasks leads here: it would cost every settle. Ids ascend with time, so the walk ends at the first step that
-- meets a task too young for any of `older_than`.
create or replace function purge_tasks(
    statuses text[], older_than interval[], after bigint default 0, quantity integer default 1000,
    out reached bigint, out purged jsonb, out files text[]
) language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
    upto bigint;
    rows_seen integer;
    newest timestamptz;
    locked bigint[];
    going bigint[];
begin
    if not statuses <@ '{success,failure,crashed,cancelled}' or cardinality(statuses) <> cardinality(older_than) then
        raise exception 'Only finished tasks can be purged, each status with an age.' using
            errcode = 'PF006', detail = 'Finished are success, failure, crashed and cancelled.';
    end if;
    -- A file is removed after the commit that takes its row away, so that commit must be one that no crash undoes.
    perform set_config('synchronous_commit', 'on', true);
    select max(s.id), count(*), max(s.created_at) into upto, rows_seen, newest from (
        select t.id, t.created_at from tasks t where t.id > after order by t.id limit quantity) s;
    if rows_seen = quantity and newest < now() - (select min(age) from unnest(older_than) age) then
        reached := upto;
    end if;
    locked := array(
        select t.id from tasks t
        where t.id = any (array(select p.id from purgeable_tasks(statuses, older_than, after, upto) p))
        order by t.id for update skip locked);
    -- Asked again now that nobody can change them: what was retried meanwhile stays, and so does all of its family.
    going := array(
        select unnest(family.ids) from (
            select array_agg(p.id) as ids from purgeable_tasks(statuses, older_than, after, upto) p
            group by p.head having bool_and(p.id = any (locked))) family);
    with gone as (delete from exports e where e.task_id = any (going) returning e.filename)
    select coalesce(array_agg(gone.filename), '{}') into files from gone;
    with gone as (delete from tasks t where t.id = any (going) returning t.status),
         counts as (select gone.status, count(*) as tasks from gone group by gone.status)
    select coalesce(jsonb_object_agg(c.status, c.tasks), '{}') into purged from counts c;
    if reached is null then
        -- No task that is left can have run on a worker that ended before the oldest of them was made.
        delete from worker_history h
        where h.ended_at < coalesce((select t.created_at from tasks t order by t.id limit 1), now()) - interval '1 day';
    end if;
end $$;
