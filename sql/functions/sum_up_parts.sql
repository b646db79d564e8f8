-- A part has ended, or was called back: what its parent says of all of them. The parent ends with the last of its parts:
-- success if all are, cancelled if the others were called off and none failed, else failure. A part that begins anew
-- lets its parent begin anew.
--
-- At the commit of whatever ended the part (after_task). Two last parts in two transactions: `parts` lets one of them
-- wait for the other's commit and then count it. The parent is updated by each transaction whose count differs, so that above
-- read committed, where the later one can't see the other, it fails (40001) instead of leaving a parent that never ends.
create or replace function sum_up_parts(parent bigint) returns void language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
#variable_conflict use_column
declare
    whole tasks;
    total integer;
    open integer;
    bad text[];
    failed boolean;
    summary text;
    ends text;
    step text;
begin
    perform pg_advisory_xact_lock(7441, 'tasks'::regclass::oid::integer);
    select * into whole from tasks t where t.id = sum_up_parts.parent for no key update;
    if not found then
        return;  -- purged
    end if;
    -- Each part's end counts all of them, so while some are open the count is all (2,000 parts: 90 ms with the summary).
    select count(*), count(*) filter (where p.status in ('waiting', 'fresh', 'started')) into total, open
    from tasks p where p.parent = whole.id;
    if open = 0 then
        select coalesce(bool_or(t.status in ('failure', 'crashed')), false),
               array_agg(t.node order by t.node) filter (where t.status <> 'success'),
               jsonb_build_object('parts', jsonb_object_agg(t.node, jsonb_build_object('task_id', t.id, 'status', t.status)))
        into failed, bad, summary
        from (select p.id, p.status, coalesce(p.node, 'task ' || p.id) as node  -- a part made by hand may name none
              from tasks p where p.parent = whole.id) t;
    end if;
    ends := case when open > 0 then 'started' when bad is null then 'success' when failed then 'failure' else 'cancelled' end;
    step := format('%s of %s nodes', total - open, total);
    if ends = whole.status and step is not distinct from whole.current_step
       and (open > 0 or summary = whole.result)
    then
        return;  -- told by another part that ended in this transaction
    end if;
    if whole.status <> 'started' then
        perform keep_attempt(whole);
        whole.attempt := whole.attempt + 1;
        whole.started_at := now();
        whole.cancel_requested_at := null;
    end if;
    update tasks t set
        status = ends, worker = 'all nodes', attempt = whole.attempt, started_at = whole.started_at, updated_on = now(),
        cancel_requested_at = case ends when 'started' then whole.cancel_requested_at end,
        progress = (total - open)::real / total, current_step = step,
        result = case when open = 0 then summary end,
        error = case ends when 'failure' then format('%s of %s nodes did not succeed: %s.', cardinality(bad), total,
                                                     array_to_string(bad, ', ')) end,
        failure_count = t.failure_count + (ends = 'failure')::integer
    where t.id = whole.id;
end $$;
