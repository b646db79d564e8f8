-- Which finished tasks may go, of those that stand alone or lead a family and have an id in (after, upto]: those whose last
-- change is longer ago than `older_than`, of their status in `statuses`. A task made for all nodes and its parts are a
-- family: it goes as a whole, once each of it may. Answers the family's head with each.
create or replace function purgeable_tasks(statuses text[], older_than interval[], after bigint, upto bigint)
returns table (id bigint, head bigint, status text)
language sql stable
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set jit = off
as $$
    with heads as materialized (
        select t.id, t.status from tasks t
        where t.id > after and t.id <= upto
          and coalesce(t.updated_on, t.created_at) < now() - older_than[array_position(statuses, t.status)]
          and not exists (select from tasks whole where whole.id = t.parent)
          and not exists (
              select from tasks part where part.parent = t.id and (
                  coalesce(part.updated_on, part.created_at) < now() - older_than[array_position(statuses, part.status)]
              ) is not true))
    select h.id, h.id, h.status from heads h
    union all
    select part.id, h.id, part.status from heads h join tasks part on part.parent = h.id
$$;
