-- name: lock
-- Held until the connection closes. One lock a schema: two fleets in one database don't wait for each other.
select pg_advisory_lock(7436, hashtext(%(schema)s))
-- name: schema_stands
select to_regnamespace(quote_ident(%(schema)s)) is not null
-- name: standing
select coalesce(bool_or(c.relname = 'pgfleet_migrations'), false),
       coalesce(array_agg(c.relname::text order by c.relname)
                filter (where c.relname in ('tasks', 'task_types', 'workers', 'exports', 'csv_export')), '{}'),
       coalesce(has_schema_privilege(to_regnamespace(quote_ident(%(schema)s))::oid, 'usage'), true), current_user::text
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = %(schema)s
-- name: patience
select set_config('lock_timeout', %(milliseconds)s, true)
-- name: ours_alone
select set_config('search_path', quote_ident(%(schema)s), true)
-- name: bookkeeping
create table if not exists pgfleet_migrations (
    number     integer primary key,
    name       text not null,
    checksum   text not null,
    applied_at timestamptz not null default now()
)
-- name: applied
select number, name, checksum from pgfleet_migrations
-- name: gone
-- Of functions by name those that are not in the schema: dropped by hand, or by a migration of another schema before December 2026.
select name from unnest(%(names)s::text[]) name
where not exists (
    select from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname = %(schema)s and p.proname = name)
-- name: record
insert into pgfleet_migrations (number, name, checksum) values (%(number)s, %(name)s, %(checksum)s)
on conflict (number) do update set name = excluded.name, checksum = excluded.checksum, applied_at = now()
-- name: pin_search_path
-- A client with any search_path of its own may call our functions by their full name. pg_temp last: not named, it comes
-- first, and a client's temporary table called tasks would get the rows.
do $$
declare
    f regprocedure;
begin
    for f in
        select p.oid from pg_proc p join pg_namespace n on n.oid = p.pronamespace
        where n.nspname = current_schema() and p.prokind = 'f' and p.xmin = pg_current_xact_id()::xid
    loop
        execute format('alter function %s set search_path = %s, pg_temp', f, current_setting('search_path'));
    end loop;
end $$
