-- What the table says a worker holds and the worker itself does not know of: `ids` and `attempts` are what it does hold.
-- Walks all that the worker has started since the last VACUUM, so it may be slow: see worker/pgfleet_worker/unheld.py.
create or replace function unheld_tasks(worker text, ids bigint[], attempts integer[])
returns table (id bigint, attempt integer)
language plpgsql stable
set enable_seqscan = off set enable_bitmapscan = off
set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
    return query
        select t.id, t.attempt from tasks t
        where t.worker = unheld_tasks.worker and t.status = 'started'
          and (t.id, t.attempt) not in (
              select h.id, h.attempt from unnest(unheld_tasks.ids, unheld_tasks.attempts) h(id, attempt));
end $$;
