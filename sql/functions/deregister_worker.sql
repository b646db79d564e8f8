-- A graceful end: what the worker still holds is ready for others at once, and the worker is gone.
create or replace function deregister_worker(worker text) returns void language plpgsql as $$
begin
    perform release_unheld(deregister_worker.worker, '{}', '{}');
    delete from workers w where w.id = deregister_worker.worker;
end $$;
