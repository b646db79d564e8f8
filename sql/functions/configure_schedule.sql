-- The retry policy of a schedule's runs to come; null leaves a value as it is. Code that registers it anew says it anew.
create or replace function configure_schedule(name text, max_retries integer default null, retry_delay interval default null)
returns void language plpgsql as $$
declare
    its schedules := require_schedule(configure_schedule.name);
begin
    if configure_schedule.max_retries not between 0 and 1000
        or configure_schedule.retry_delay not between '0' and '365 days'
    then
        raise exception 'max_retries must be from 0 to 1000 and retry_delay from 0 to 365 days.' using errcode = 'PF006';
    end if;
    update schedules s set
        max_retries = coalesce(configure_schedule.max_retries, s.max_retries),
        retry_delay = coalesce(configure_schedule.retry_delay, s.retry_delay), updated_on = now()
    where s.name = its.name;
end $$;
