-- An operator's word to one worker: `pause` (take nothing more), `work` (again), `drain` (take nothing more, end when what
-- is held is done). Told at once over `worker_orders`; what it claims from here on is nothing, whether it has heard or not: a claim
-- under way, which may have seen other orders, holds its lock until its commit, and is waited for (see claim_tasks).
-- Commit at once: until then the worker can neither claim nor renew its lease.
create or replace function order_worker(worker text, orders text) returns void language plpgsql
set lock_timeout = '5s'
as $$
begin
    if order_worker.orders is null or order_worker.orders not in ('work', 'pause', 'drain') then
        raise exception 'A worker''s orders are work, pause or drain.' using
            errcode = 'PF006', detail = format('Got %s.', coalesce(order_worker.orders, 'null'));
    end if;
    if order_worker.orders <> 'work' then
        perform pg_advisory_xact_lock(7438, hashtext(order_worker.worker));
    end if;
    update workers w set orders = order_worker.orders where w.id = order_worker.worker and w.lost_at is null;
    if not found then
        raise exception 'No live worker has the id %.', order_worker.worker using
            errcode = 'PF007', hint = 'List the workers: it may have ended, or have been lost.';
    end if;
    perform pg_notify('worker_orders', order_worker.worker);
end $$;
