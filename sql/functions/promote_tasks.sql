-- waiting -> fresh, for all that is due. Answers how many, and the seconds until the next is due (null: none waits).
create or replace function promote_tasks(quantity integer default 1000, out promoted integer, out next_in double precision)
language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
    due bigint[];
begin
    due := array(select t.id from tasks t where t.status = 'waiting' and t.run_at <= now()
                 order by t.run_at limit promote_tasks.quantity for update skip locked);
    update tasks t set status = 'fresh', updated_on = now() where t.id = any (due);
    promoted := cardinality(due);
    if promoted > 0 then
        perform notify_tasks(due);
    end if;
    next_in := (select greatest(extract(epoch from t.run_at - clock_timestamp()), 0)
                from tasks t where t.status = 'waiting' order by t.run_at limit 1);
end $$;
