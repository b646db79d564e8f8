-- A schedule that nothing starts by itself any more and whose latest run is crashed: that run goes on from its checkpoint.
create or replace function resume_schedule(name text) returns void language plpgsql
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    its schedules := require_schedule(resume_schedule.name);
    status text := (select st.status from schedule_statuses(array[its.name]) st);
    latest bigint := (select t.id from tasks t
                      where t.schedule = its.name and t.id >= coalesce(its.last_task, 0) order by t.id desc limit 1);
begin
    if status <> 'crashed' or latest is null then
        raise exception 'Schedule "%" can''t be resumed: it is %.', its.name, status using
            errcode = 'PF003', detail = 'Only one whose latest run is crashed, and still kept, can be resumed.',
            hint = 'Retry it instead.';
    end if;
    perform resume_task(latest);
end $$;
