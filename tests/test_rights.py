"""The rights that sql/README.md names are enough, for each of its roles."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgfleet import bulk, demo, migrate, schedules, sql, tasks
from pgfleet.errors import SchemaError
from pgfleet.settings import Settings
from tests.support.database import Database
from tests.support.fleet import value
from tests.support.following import ended
from tests.support.processes import Processes
from tests.support.workers import worker

Wait = Callable[..., Any]
ROLES = ("fleet", "creator")


@pytest.fixture
def settings_of(database: Database, export_dir: Path) -> Iterator[Callable[[str], Settings]]:
    """``settings_of("creator")``: a role of that kind, with the rights that the manual gives it and no others."""
    owner = database.connect()
    _, _, below = (sql.root() / "README.md").read_text(encoding="utf-8").partition("## Rights")
    grants = "\n".join(re.findall(r"^    (grant .*;)$", below.partition("\n## ")[0], re.MULTILINE))
    names = {role: f"{owner.info.dbname}_{role}" for role in ROLES}
    for role, name in names.items():
        owner.execute(f"create role {name} login password 'secret'")  # type: ignore[arg-type]
        grants = re.sub(rf"(to .*)\b{role}\b", rf"\1{name}", grants)
    owner.execute(grants)  # type: ignore[arg-type]
    yield lambda role: database.settings(
        database_url=make_conninfo(database.url, user=names[role], password="secret"), export_dir=export_dir
    )
    for name in names.values():
        owner.execute(f"drop owned by {name}; drop role {name}")  # type: ignore[arg-type]


def test_a_fleet_that_owns_nothing_does_its_work_and_what_operators_ask(
    database: Database, settings_of: Callable[[str], Settings], processes: Processes, wait_until: Wait
) -> None:
    owner, settings = database.connect(), settings_of("fleet")
    demo.install(owner)
    owner.execute("grant select on books, notes to public")
    process = worker(processes, "--types", "csv_export", settings=settings)
    with psycopg.connect(settings.database_url, autocommit=True) as conn:
        export = tasks.create(conn, "csv_export", created_by=1)
        assert wait_until(ended(owner, export))["status"] == "success"
        schedules.put(conn, schedules.Schedule("s", "csv_export", (schedules.Trigger.on("e"),), created_by=1))
        assert schedules.emit(conn, "e") == 1
        chores = [schedules.trigger(conn, name) for name in ("pgfleet.purge", "pgfleet.sweep")]
        for id in chores:
            assert wait_until(ended(owner, id))["status"] == "success"
        wait_until(lambda: schedules.get(conn, "s").successes == 1)
        waiting = tasks.create(conn, "csv_export", created_by=1, delay=timedelta(hours=1))
        tasks.cancel(conn, waiting)
        tasks.retry(conn, waiting)
        assert wait_until(ended(owner, waiting))["status"] == "success"
    assert process.stop() == 0
    assert not process.events("settle.waiting")


def test_who_may_create_tasks_may_do_no_more(database: Database, settings_of: Callable[[str], Settings]) -> None:
    owner, settings = database.connect(), settings_of("creator")
    with psycopg.connect(settings.database_url) as conn:  # a transaction of its own
        first = value(conn, "select create_task('csv_export', null, 1, unique_key => 'k')")
        assert value(conn, "select create_task('csv_export', null, 1, unique_key => 'k')") == first
        value(conn, "select create_task('csv_export', null, 1, run_at => now() + interval '1 hour')")
        value(conn, "select create_tasks('csv_export', '{a,b}', 1)")
        tasks.create_many(conn, "csv_export", [None] * bulk.COPIED, created_by=1)  # no right to the sequence
    assert value(owner, "select count(*) from tasks") == 4 + bulk.COPIED
    with psycopg.connect(settings.database_url, autocommit=True) as conn:
        for forbidden in ("delete from tasks", "update tasks set priority = 1", f"select cancel_task({first})"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(forbidden)  # type: ignore[arg-type]


def test_a_role_that_may_not_use_the_schema_is_not_sent_to_another_fleet(
    database: Database, settings_of: Callable[[str], Settings]
) -> None:
    migrate.migrate(database.settings(schema="second"))
    settings = replace(settings_of("fleet"), schema="second")
    for ask in (migrate.check, migrate.migrate):
        with pytest.raises(SchemaError, match="may not use schema second") as caught:
            ask(settings)
        assert "grant usage on schema second to" in str(caught.value.hint)
