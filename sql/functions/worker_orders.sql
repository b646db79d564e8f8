-- What operators want of a worker: 'work', 'pause' or 'drain'; and which of its tasks are to be cancelled, with the attempts
-- it holds them in. A read: asked as often as the worker likes.
create or replace function worker_orders(worker text, out orders text, out cancelled bigint[], out attempts integer[])
language plpgsql stable
set enable_seqscan = off set enable_bitmapscan = off
as $$
begin
    select w.orders into worker_orders.orders from workers w where w.id = worker_orders.worker and w.lost_at is null;
    if not found then
        raise exception 'Worker % has lost its lease.', worker using
            errcode = 'PF005', hint = 'Drop its work and register under a new UUID.';
    end if;
    select coalesce(array_agg(t.id order by t.id), '{}'), coalesce(array_agg(t.attempt order by t.id), '{}')
    into worker_orders.cancelled, worker_orders.attempts
    from tasks t
    where t.worker = worker_orders.worker and t.status = 'started' and t.cancel_requested_at is not null;
end $$;
