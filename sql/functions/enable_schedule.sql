-- Due times and events pass a disabled schedule by, and are not made up for when it is enabled again; what it owed is dropped.
-- A run by hand (trigger_schedule) still is one. Code that registers it anew leaves this as it is.
create or replace function enable_schedule(name text, enabled boolean default true) returns void language plpgsql as $$
#variable_conflict use_column
declare
    its schedules := require_schedule(enable_schedule.name);
begin
    if its.enabled = enable_schedule.enabled then
        return;
    end if;
    update schedules s set
        enabled = enable_schedule.enabled, updated_on = now(), owed = '{}',
        enabled_at = case when enable_schedule.enabled then now() else s.enabled_at end,
        skipped = s.skipped + cardinality(s.owed),
        last_skipped_at = case when s.owed <> '{}' then now() else s.last_skipped_at end,
        last_skip_reason = case when s.owed <> '{}' then 'disabled' else s.last_skip_reason end
    where s.name = its.name;
    update triggers t set paused = not enable_schedule.enabled where t.schedule = its.name;
    perform pg_notify('schedules_changed', its.name);
end $$;
