-- A graceful end: what the worker still holds is ready for others at once, and the worker is gone.
create or replace function deregister_worker(worker text) returns void language plpgsql as $$
begin
    perform release_tasks(deregister_worker.worker,
        array(select t.id from tasks t where t.worker = deregister_worker.worker and t.status = 'started'),
        array(select t.attempt from tasks t where t.worker = deregister_worker.worker and t.status = 'started'));
    delete from workers w where w.id = deregister_worker.worker;
end $$;
