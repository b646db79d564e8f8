"""Migrating: once however many ask, never over edits, newer schemas or other applications' tables."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgfleet import db, migrate, sql
from pgfleet.errors import SchemaError
from pgfleet.settings import Settings
from tests.support.database import Database, environment
from tests.support.fleet import column, value
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[1]
MIGRATE = [sys.executable, "-m", "pgfleet.cli.main", "migrate"]
#: What an empty schema lacks, in order; and the name of a migration that comes after them all.
STEPS = [*sorted(path.stem for path in (sql.root() / "migrations").glob("*.sql")), "functions"]
NEXT = f"{len(STEPS):04}_more"


@pytest.fixture
def sql_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of sql/ that this test may edit; pgfleet reads it instead of its own."""
    copy = tmp_path / "sql"
    shutil.copytree(sql.root(), copy)
    monkeypatch.setattr(sql, "root", lambda: copy)
    sql.text.cache_clear()
    sql.queries.cache_clear()
    yield copy
    sql.text.cache_clear()
    sql.queries.cache_clear()


def standing(database: Database) -> set[str]:
    """All tables of all schemas that are not Postgres's own."""
    conn = database.connect()
    query = "select schemaname || '.' || tablename from pg_tables where schemaname !~ '^(pg_|information)'"
    return set(column(conn, query))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    sql.text.cache_clear()


def test_twenty_processes_at_once_migrate_once(empty_database: Database) -> None:
    env = environment(empty_database.settings())
    gate = empty_database.connect()
    gate.execute(sql.queries("migrate")["lock"], {"schema": "public"})
    started = [
        subprocess.Popen(MIGRATE, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(20)
    ]
    queue = (
        "select count(*) from pg_locks where locktype = 'advisory' and not granted"
        " and database = (select oid from pg_database where datname = current_database())"
    )
    wait_until(lambda: value(gate, queue) == 20, 60, what="all twenty stand at the gate")
    gate.close()
    said = [process.communicate(timeout=120)[0].strip() for process in started]
    assert [process.returncode for process in started] == [0] * 20, said
    assert sorted(said) == [
        f"Applied to schema public: {', '.join(STEPS)}.",
        *["Schema public is up to date."] * 19,
    ]
    assert column(empty_database.connect(), "select number from pgfleet_migrations order by 1") == list(
        range(len(STEPS))
    )


def test_migrating_again_does_nothing(database: Database) -> None:
    before = value(database.connect(), "select array_agg(xmin::text || p.oid) from pg_proc p where oid > 16384")
    assert not migrate.migrate(database.settings())
    assert before == value(database.connect(), "select array_agg(xmin::text || p.oid) from pg_proc p where oid > 16384")


def test_check_tells_what_is_missing_and_changes_nothing(empty_database: Database) -> None:
    settings = empty_database.settings()
    before = standing(empty_database)
    assert [step.name for step in migrate.check(settings).missing] == STEPS
    assert standing(empty_database) == before
    migrate.migrate(settings)
    assert not migrate.check(settings)


def test_check_exits_with_1_until_nothing_is_missing(empty_database: Database) -> None:
    env = environment(empty_database.settings())

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*MIGRATE, *options], env=env, capture_output=True, text=True, timeout=60)

    missing = run("--check")
    assert missing.returncode == 1
    assert missing.stderr == (f"Error: Schema public lacks {', '.join(STEPS)}.\nHint: Apply them: pgfleet migrate.\n")
    assert run().returncode == 0
    assert (run("--check").returncode, run("--check").stdout) == (0, "Schema public is up to date.\n")


def test_an_edited_old_migration_is_noticed(database: Database, sql_copy: Path) -> None:
    path = sql_copy / "migrations" / "0001_fleet.sql"
    path.write_text(path.read_text() + "\ncreate table sneaked_in ();\n")
    for attempt in (migrate.migrate, migrate.check):
        with pytest.raises(SchemaError, match="0001_fleet was edited after it had been applied") as caught:
            attempt(database.settings())
        assert caught.value.hint == "Restore the file; put the change into a new migration."
    assert "public.sneaked_in" not in standing(database)


def test_an_edited_function_is_applied_anew_and_pinned_anew(database: Database, sql_copy: Path) -> None:
    edit(sql_copy / "functions" / "retry_backoff.sql", "0.8 + 0.4 * random()", "1")
    assert [step.name for step in migrate.migrate(database.settings()).missing] == ["functions"]
    conn = database.connect()
    assert value(conn, "select extract(epoch from retry_backoff('10 s', 3))") == 40
    assert column(conn, UNPINNED) == []


def test_a_schema_newer_than_this_version_is_refused(database: Database) -> None:
    conn = database.connect()
    conn.execute("insert into pgfleet_migrations (number, name, checksum) values (9999, '9999_later', 'x')")
    with pytest.raises(SchemaError, match=f"has migration 9999, this version ends at {STEPS[-2][:4]}") as caught:
        migrate.migrate(database.settings())
    assert "Upgrade pgfleet" in str(caught.value.hint)
    with pytest.raises(SchemaError, match="newer than this pgfleet"):
        migrate.require_current(database.connect(), database.settings())


def test_a_migration_that_fails_leaves_nothing_of_itself(database: Database, sql_copy: Path) -> None:
    second = sql_copy / "migrations" / f"{NEXT}.sql"
    second.write_text("create table half ();\nselect 1 / 0;\n")
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate.migrate(database.settings())
    assert "public.half" not in standing(database)
    second.write_text("create table half ();\n")
    sql.text.cache_clear()
    assert [step.name for step in migrate.migrate(database.settings()).missing] == [NEXT, "functions"]
    assert "public.half" in standing(database)


def test_a_migration_that_others_are_in_the_way_of_keeps_nobody_waiting_and_is_applied_when_they_are_gone(
    database: Database, sql_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sql_copy / "migrations" / f"{NEXT}.sql").write_text("alter table task_types add column colour text;\n")
    monkeypatch.setattr(migrate, "PATIENCE", 0.2)
    monkeypatch.setattr(migrate, "BETWEEN", 0.1)
    reader, watcher = database.connect(autocommit=False), database.connect()
    reader.execute("select from task_types")
    tries = "select xact_start from pg_stat_activity where application_name = 'pgfleet migrate' and wait_event_type = 'Lock'"
    seen: set[Any] = set()

    def tried(times: int) -> bool:
        seen.update(column(watcher, tries))
        return len(seen) >= times

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(migrate.migrate, database.settings())
        wait_until(lambda: tried(1))
        assert value(watcher, "select count(*) from task_types") > 0  # behind it in the queue, and answered
        wait_until(lambda: tried(3))
        reader.rollback()
        assert [step.name for step in done.result().missing] == [NEXT, "functions"]

    (sql_copy / "migrations" / "9999_last.sql").write_text("alter table task_types add column size text;\n")
    monkeypatch.setattr(migrate, "MOST_TRYING", 0.5)
    reader.execute("select from task_types")
    with pytest.raises(SchemaError, match="Others hold what 9999_last changes"):
        migrate.migrate(database.settings())
    assert column(watcher, "select number from pgfleet_migrations where number = 9999") == []


def test_a_file_that_is_no_migration_is_refused_by_name(database: Database, sql_copy: Path) -> None:
    (sql_copy / "migrations" / "2_more.sql").write_text("")
    with pytest.raises(SchemaError, match=r"2_more\.sql is no migration's name"):
        migrate.check(database.settings())


def test_another_applications_tasks_stop_the_migration_before_it_changes_anything(empty_database: Database) -> None:
    conn = empty_database.connect()
    conn.execute("create table tasks (id serial primary key, type varchar, status varchar)")
    conn.execute("insert into tasks (type) values ('theirs')")
    before = standing(empty_database)
    with pytest.raises(SchemaError, match="holds tables that are not pgfleet's: tasks") as caught:
        migrate.migrate(empty_database.settings())
    assert "PGFLEET_SCHEMA=pgfleet" in str(caught.value.hint)
    assert standing(empty_database) == before
    migrate.migrate(empty_database.settings(schema="pgfleet"))
    assert standing(empty_database) > before
    assert column(conn, "select type from public.tasks") == ["theirs"]


# A schema of our own


def test_in_a_schema_of_its_own_the_fleet_touches_no_other(empty_database: Database) -> None:
    migrate.migrate(empty_database.settings(schema="fleet"))
    assert {name.split(".")[0] for name in standing(empty_database)} == {"fleet"}
    assert (
        column(empty_database.connect(), "select proname from pg_proc where pronamespace = 'public'::regnamespace")
        == []
    )


@pytest.mark.parametrize("path", ["public", "theirs, public", "pg_catalog", "''"])
def test_a_session_of_any_search_path_can_create_a_task(empty_database: Database, path: str) -> None:
    migrate.migrate(empty_database.settings(schema="fleet"))
    conn = empty_database.connect()
    conn.execute("create table public.tasks (id serial)")  # BookLogr's
    conn.execute("create schema theirs create table tasks (id serial)")
    conn.execute("create temp table tasks (id serial)")
    conn.execute(f"set search_path = {path}")
    id = value(conn, "select fleet.create_task('csv_export', '{}', 1)")
    assert column(conn, "select id from fleet.tasks") == [id]


def test_two_fleets_share_one_database(empty_database: Database) -> None:
    for schema in ("one", "two"):
        migrate.migrate(empty_database.settings(schema=schema))
    conn = empty_database.connect()
    conn.execute("select one.create_task('csv_export', '', 1)")
    assert [value(conn, f"select count(*) from {schema}.tasks") for schema in ("one", "two")] == [1, 0]


# What stands after it

OURS = "pronamespace = 'public'::regnamespace"
# A procedure that commits can have no settings of its own.
UNPINNED = (
    f"select proname from pg_proc where {OURS} and prokind <> 'p'"
    " and not coalesce(proconfig::text, '') ~ 'search_path=public, pg_temp'"
)


def test_every_function_has_its_search_path_pinned(database: Database) -> None:
    conn = database.connect()
    assert column(conn, UNPINNED) == []
    names = set(column(conn, f"select proname from pg_proc where {OURS}"))
    assert names == {path.stem for path in (sql.root() / "functions").glob("*.sql")}


def test_there_is_one_overload_for_each_function(database: Database) -> None:
    query = f"select proname from pg_proc where {OURS} group by 1 having count(*) > 1"
    assert column(database.connect(), query) == []


def test_booklogrs_tables_are_never_made(database: Database) -> None:
    assert not {"public.books", "public.notes"} & standing(database)


def test_the_tasks_table_has_the_missions_columns(database: Database) -> None:
    columns = database.connect().execute(
        "select column_name, data_type, is_nullable, column_default from information_schema.columns"
        " where table_name = 'tasks' and table_schema = 'public' order by ordinal_position limit 8"
    )
    assert columns.fetchall() == [
        ("id", "bigint", "NO", None),
        ("type", "text", "NO", None),
        ("data", "text", "YES", None),
        ("status", "text", "NO", "'fresh'::text"),
        ("worker", "text", "YES", None),
        ("created_at", "timestamp with time zone", "NO", "now()"),
        ("updated_on", "timestamp with time zone", "YES", None),
        ("created_by", "bigint", "NO", None),
    ]


def test_a_second_schema_takes_nothing_from_the_first(database: Database) -> None:
    conn = database.connect()
    functions = "select oid::regprocedure::text from pg_proc where pronamespace = 'public'::regnamespace order by 1"
    before = column(conn, functions)
    assert before
    migrate.migrate(database.settings(schema="second"))
    assert column(conn, functions) == before
    assert value(conn, "select count(*) from pg_proc where pronamespace = 'second'::regnamespace") == len(before)


def test_a_schema_of_its_own_takes_nothing_from_an_application_in_public(empty_database: Database) -> None:
    conn = empty_database.connect()
    conn.execute("create function public.cancel_task(bigint) returns void language sql as ''")
    conn.execute("create table public.housekeeping (id bigint)")
    migrate.migrate(empty_database.settings(schema="pgfleet"))
    assert value(conn, "select to_regprocedure('public.cancel_task(bigint)') is not null")
    assert value(conn, "select to_regclass('public.housekeeping') is not null")


@pytest.mark.parametrize("schema", ["user", "all", "default"])
def test_a_schema_may_have_the_name_of_a_word_of_sqls(empty_database: Database, schema: str) -> None:
    settings = empty_database.settings(schema=schema)
    migrate.migrate(settings)
    with db.connect(settings, "test") as conn:
        migrate.require_current(conn, settings)
        id = value(conn, "select create_task('csv_export', null, 1)")
        assert column(empty_database.connect(), f'select id from "{schema}".tasks') == [id]


def test_functions_that_somebody_dropped_are_made_again(database: Database) -> None:
    conn = database.connect()
    conn.execute("drop function claim_tasks; drop procedure insert_allowed_tasks")
    with pytest.raises(SchemaError, match="lacks functions"):
        migrate.require_current(conn, database.settings())
    assert [step.name for step in migrate.migrate(database.settings()).missing] == ["functions"]
    migrate.require_current(conn, database.settings())


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_has_no_place_for_all_characters_is_refused(database: Database, encoding: str) -> None:
    admin = database.connect()
    name = f"{admin.info.dbname}_{encoding.lower()}"
    admin.execute(f"create database {name} encoding '{encoding}' locale 'C' template template0")  # type: ignore[arg-type]
    try:
        settings = database.settings(database_url=make_conninfo(database.url, dbname=name))
        for ask in (migrate.migrate, migrate.check):
            with pytest.raises(SchemaError, match=f"encoding is {encoding}; pgfleet needs UTF8"):
                ask(settings)
        with psycopg.connect(settings.database_url) as conn:
            assert conn.execute(
                "select count(*) from pg_class where relnamespace = 'public'::regnamespace"
            ).fetchone() == (0,)
    finally:
        admin.execute(f"drop database {name}")  # type: ignore[arg-type]


def test_processes_refuse_to_start_on_a_schema_that_lacks_something(
    database: Database, settings: Settings, sql_copy: Path
) -> None:
    migrate.require_current(database.connect(), settings)
    edit(sql_copy / "functions" / "retry_backoff.sql", "0.8 + 0.4 * random()", "1")
    with pytest.raises(SchemaError, match="functions are those of another version") as caught:
        migrate.require_current(database.connect(), settings)
    assert "Upgrade pgfleet here" in str(caught.value.hint)
    (sql_copy / "migrations" / f"{NEXT}.sql").write_text("select 1;")
    with pytest.raises(SchemaError, match=f"lacks {NEXT}, functions") as caught:
        migrate.require_current(database.connect(), settings)
    assert caught.value.hint == "Run `pgfleet migrate` first."


def test_a_fresh_wheel_carries_the_sql(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = {f"pgfleet/sql/{path.relative_to(sql.root())}" for path in sql.root().rglob("*.sql")}
    assert ours <= names
    assert {"pgfleet/cli/main.py", "pgfleet_api/__init__.py", "pgfleet_worker/__init__.py"} <= names
