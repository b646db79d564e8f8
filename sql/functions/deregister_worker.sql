-- A graceful end: what the worker still holds is ready for others at once, and the worker is gone.
--
-- A claim of its own may still be under way, on a connection that broke: committed after our look, under the name of a
-- worker that no longer stands anywhere, its tasks would never be found again. claim_tasks holds this lock shared
-- until its commit, so here we wait for it; one that comes later finds no worker.
create or replace function deregister_worker(worker text) returns void language plpgsql
set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    waiting bigint[];
begin
    perform pg_advisory_xact_lock(7438, hashtext(deregister_worker.worker));
    perform release_unheld(deregister_worker.worker, '{}', '{}');
    -- Where a limit kept others from a type of ours, nothing else wakes them: one task each is enough to look.
    waiting := array(
        select t.id from workers w cross join task_types y cross join lateral (
            select t.id from tasks t where t.status = 'fresh' and t.node is null and t.type = y.name
            order by t.priority desc, t.id limit 1) t
        where w.id = deregister_worker.worker and y.name = any (w.types) and y.max_running is not null);
    perform notify_tasks(waiting);
    update worker_history h set ended_at = now() where h.id = deregister_worker.worker and h.ended_at is null;
    delete from workers w where w.id = deregister_worker.worker;
end $$;
