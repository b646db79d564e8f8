-- A graceful end: what the worker still holds is ready for others at once, and the worker is gone.
--
-- A claim of its own may still be under way, on a connection that broke: committed after our look, under the name of a
-- worker that no longer stands anywhere, its tasks would never be found again. claim_tasks holds this lock shared
-- until its commit, so here we wait for it; one that comes later finds no worker.
create or replace function deregister_worker(worker text) returns void language plpgsql
set enable_seqscan = off set enable_bitmapscan = off
as $$
begin
    perform pg_advisory_xact_lock(7438, hashtext(deregister_worker.worker));
    perform release_unheld(deregister_worker.worker, '{}', '{}');
    update worker_history h set ended_at = now() where h.id = deregister_worker.worker and h.ended_at is null;
    delete from workers w where w.id = deregister_worker.worker;
end $$;
