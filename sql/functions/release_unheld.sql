-- started -> fresh, for what the table says a worker holds and the worker itself does not know of: a claim that was
-- committed but whose answer was lost with the connection. Its lease is alive, so nobody else would ever free it.
-- `ids` and `attempts` are what the worker does hold. Answers how many were released.
create or replace function release_unheld(worker text, ids bigint[], attempts integer[]) returns integer
language plpgsql
set plan_cache_mode = force_generic_plan
as $$
declare
    unheld bigint[];
    at_attempt integer[];
begin
    select array_agg(u.id), array_agg(u.attempt) into unheld, at_attempt
    from unheld_tasks(release_unheld.worker, release_unheld.ids, release_unheld.attempts) u;
    if unheld is null then
        return 0;
    end if;
    return release_tasks(release_unheld.worker, unheld, at_attempt);
end $$;
