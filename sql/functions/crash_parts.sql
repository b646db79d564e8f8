-- fresh, waiting -> crashed: parts that wait for a node whose workers are all gone, so that their parent does not wait for
-- ever. A node may be without a worker for `patience`, while one is restarted. What a lost worker had begun is
-- rescued first. Any worker calls it, after rescue_tasks.
create or replace function crash_parts(patience interval default '30 seconds')
returns table (id bigint, status text, node text, type text, attempt integer)
language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    parents bigint[];
    parts bigint[];
    part record;
begin
    -- Step by step, each by its index: of one join Postgres 15 made a walk over the primary key, a million rows long.
    parents := array(select p.id from tasks p where p.worker = 'all nodes' and p.status = 'started');
    if parents = '{}' then
        return;
    end if;
    parts := array(select t.id from tasks t where t.parent = any (parents));
    for part in
        select t.id, t.node, t.type from tasks t
        where t.id = any (parts) and t.status in ('fresh', 'waiting')
          and not exists (
              select from workers w
              where w.node = t.node and t.type = any (w.types)
                and least(w.lease_expires_at, w.lost_at) > now() - crash_parts.patience)
          and not exists (select from worker_history h where h.node = t.node and h.ended_at > now() - crash_parts.patience)
        order by t.id
        for update of t skip locked
    loop
        return query
            update tasks t set
                status = 'crashed', updated_on = now(),
                error = format('Node %s has no live worker for %s any more.', part.node, part.type)
            where t.id = part.id
            returning t.id, t.status, t.node, t.type, t.attempt;
    end loop;
end $$;
