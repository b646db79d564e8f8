-- The fleet's chores are schedules now, pgfleet.purge and pgfleet.sweep: the workers make them so at their start.
drop table housekeeping;
