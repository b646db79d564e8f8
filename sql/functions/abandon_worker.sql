-- started -> fresh, or crashed: the tasks of a worker whose process is dead, on the word of the process that watched it.
-- Its lease ends now and not some seconds later; from there on it is lost like any other, and so are its tasks rescued.
-- Answers what rescue_tasks() does, and like it stops at `quantity` tasks: call it again for the rest.
create or replace function abandon_worker(worker text, quantity integer default 500)
returns table (id bigint, status text, lost_worker text, type text, attempt integer)
language plpgsql as $$
begin
    update workers w set lease_expires_at = now() - interval '1 microsecond'
    where w.id = abandon_worker.worker and w.lost_at is null;
    return query select r.id, r.status, r.worker, r.type, r.attempt from rescue_tasks(abandon_worker.quantity) r;
end $$;
