-- Which files of an export volume nobody will ever want: `names`, when they were `written`, and for those not yet whole whose
-- they are (null: it stands under its final name).
--
-- A file that is not whole is wanted while its attempt holds the task. A whole one is wanted once it has a row; and
-- before that while its attempt may yet be recorded, which may take as long as Postgres was away: every task that began before the
-- file was written may be its own. `slack` is for clocks that differ. Look at the volume first, then ask.
create or replace function orphaned_files(
    names text[], written timestamptz[], task_ids bigint[], attempts integer[], slack interval default '1 hour'
) returns setof text
language sql stable
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set jit = off
as $$
    select f.name
    from unnest(names, written, task_ids, attempts) f(name, written, task_id, attempt)
    cross join (select min(t.started_at) as began from tasks t where t.status = 'started') oldest
    where case when f.task_id is not null then
            not exists (select from tasks t where t.id = f.task_id and (t.status, t.attempt) = ('started', f.attempt))
        else
            not exists (select from exports e where e.filename = f.name)
            and coalesce(oldest.began > f.written + slack, true)
        end
$$;
