"""Housekeeping by the workers: one at a time, never in the way, and nothing is left behind however one dies."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pgfleet import exports, log, sql, tasks
from pgfleet.settings import Settings
from pgfleet_worker.housekeeping import Housekeeping
from tests.support.database import Database
from tests.support.fleet import Connection, column, put, register, value
from tests.support.processes import Processes
from tests.test_purge_sql import age
from tests.test_sweep import WHOLE, place
from tests.test_worker import ended, worker

Wait = Callable[..., Any]

KEEP = {"keep_success": 86_400.0, "keep_failure": 0.0, "keep_crashed": 0.0, "keep_cancelled": 0.0}


@pytest.fixture
def conn(database: Database) -> Connection:
    conn = database.connect()
    register(conn)
    return conn


@pytest.fixture
def chores(database: Database, export_dir: Path) -> Housekeeping:
    return Housekeeping(database.settings(export_dir=export_dir, **KEEP), log.get())


@pytest.fixture
def old(conn: Connection, export_dir: Path) -> int:
    """A task that succeeded two days ago, with a file and its row."""
    id = put(conn, "success")
    place(export_dir, WHOLE, hours=48)
    conn.execute(
        "insert into exports (filename, owner_id, task_id, format, bytes, sha256) values (%s, 1, %s, 'csv', 6, %s)",
        [WHOLE, id, "0" * 64],
    )
    age(conn, [id], 2)
    return id


def marked(conn: Connection, folder: Path) -> None:
    place(folder, f".pgfleet_{value(conn, 'select id::text from fleet_identity')}", hours=48)


def ids(conn: Connection) -> list[int]:
    return column(conn, "select id from tasks order by id")


@contextmanager
def waiting(conn: Connection, wait_until: Wait) -> Iterator[None]:
    """Until a worker's housekeeping waits for a lock."""
    wait_until(
        lambda: (
            value(
                conn,
                "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
                " and application_name = 'pgfleet housekeeping'",
            )
            == 1
        )
    )
    yield


def test_a_worker_purges_finished_tasks_with_their_files_once_their_term_is_over(
    database: Database, processes: Processes, export_dir: Path, wait_until: Wait
) -> None:
    conn = database.connect()
    conn.execute(sql.text("demo/library.sql"))
    here = database.settings(export_dir=export_dir, keep_success=1.0, keep_failure=0.0)
    process = worker(processes, "--types", "csv_export,boom", settings=here)
    broke = tasks.create(conn, "boom", created_by=1)
    assert wait_until(ended(conn, broke))["status"] == "failure"
    id = tasks.create(conn, "csv_export", created_by=1)
    wait_until(lambda: process.events("task.published"))
    wait_until(lambda: ids(conn) == [broke])
    wait_until(lambda: list(export_dir.glob("*.csv")) == [])
    assert exports.of_owner(conn, 1) == []
    purged = process.wait_for_event("housekeeping.purged")
    assert (purged["tasks"], purged["files"], id != broke) == ({"success": 1}, 1, True)


def test_a_worker_sweeps_what_a_killed_one_has_left(
    database: Database, processes: Processes, export_dir: Path, wait_until: Wait
) -> None:
    conn = database.connect()
    marked(conn, export_dir)
    half = place(export_dir, ".export_4711_2_abcABC12.tmp")
    place(export_dir, WHOLE)
    process = worker(processes, "--types", "echo", settings=database.settings(export_dir=export_dir, keep_success=1.0))
    wait_until(lambda: len(process.events("housekeeping.swept")) == 2)
    assert list(export_dir.glob("*export_*")) == []
    told = {
        event["filename"]: (event["task"], event["attempt"], event["bytes"])
        for event in process.events("housekeeping.swept")
    }
    assert told == {half.name: (4711, 2, 6), WHOLE: (None, None, 6)}


def test_without_schedules_a_worker_leaves_the_chores_to_others(settings: Settings) -> None:
    import dataclasses

    for schedules in (False, True):
        chores = Housekeeping(dataclasses.replace(settings, schedules=schedules), log.get())
        chores.start()
        assert (chores._thread is not None) == schedules
        chores.stop()


def test_what_is_not_due_is_let_alone(conn: Connection, chores: Housekeeping, old: int, export_dir: Path) -> None:
    marked(conn, export_dir)
    conn.execute("update housekeeping set due_at = now() + interval '1 second'")
    chores.purge(conn)
    chores.sweep(conn)
    assert ids(conn) == [old]
    conn.execute("update housekeeping set due_at = now()")
    chores.purge(conn)
    assert ids(conn) == []
    assert list(export_dir.glob("*.csv")) == []
    assert value(conn, "select due_at > now() + interval '50 minutes' from housekeeping where chore = 'purge'") is True


def test_one_worker_at_a_time_sees_to_a_chore(
    conn: Connection, database: Database, chores: Housekeeping, old: int, export_dir: Path
) -> None:
    marked(conn, export_dir)
    place(export_dir, "export_260131_bbbbbbbbbbbb.csv")
    busy = database.connect(autocommit=False)
    busy.execute(sql.queries("housekeeping")["take"], {"chore": "purge", "going_on": False})
    busy.execute(sql.queries("housekeeping")["take"], {"chore": "sweep", "going_on": False})
    chores.purge(conn)
    chores.sweep(conn)
    assert (ids(conn), len(list(export_dir.glob("*.csv")))) == ([old], 2)
    busy.rollback()
    chores.purge(conn)
    chores.sweep(conn)
    assert (ids(conn), len(list(export_dir.glob("*.csv")))) == ([], 0)


def test_a_long_walk_is_held_by_its_worker_between_two_steps(
    conn: Connection, database: Database, chores: Housekeeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pgfleet import housekeeping

    made = [put(conn, "success") for _ in range(3)]
    age(conn, made, 2)
    step, seen = housekeeping.purge_step, []

    def one(conn: Connection, keep: Any, *, after: int) -> housekeeping.Purged:
        watcher = database.connect()
        seen.append(value(watcher, "select cursor from housekeeping where chore = 'purge'"))
        if seen[1:]:
            assert value(watcher, "select due_at > now() from housekeeping where chore = 'purge'")
        return step(conn, keep, after=after, quantity=1)

    monkeypatch.setattr(housekeeping, "purge_step", one)
    chores.purge(conn)
    assert seen == [0, *made]
    assert ids(conn) == []
    assert value(conn, "select cursor from housekeeping where chore = 'purge'") == 0


def test_a_worker_killed_in_the_middle_of_a_step_has_done_nothing_and_holds_up_nobody(
    conn: Connection,
    database: Database,
    chores: Housekeeping,
    processes: Processes,
    old: int,
    export_dir: Path,
    wait_until: Wait,
) -> None:
    holder = database.connect(autocommit=False)
    holder.execute("select id from exports for update")
    here = database.settings(export_dir=export_dir, keep_success=1.0)
    process = worker(processes, "--types", "echo", settings=here)
    with waiting(conn, wait_until):
        process.kill()
    holder.rollback()
    wait_until(
        lambda: (
            value(
                conn,
                "select count(*) from pg_stat_activity where application_name = 'pgfleet housekeeping'"
                " and datname = current_database()",
            )
            == 0
        )
    )
    assert ids(conn) == [old]
    assert (export_dir / WHOLE).exists()
    chores.purge(conn)
    assert ids(conn) == []
    assert not (export_dir / WHOLE).exists()


def test_the_file_of_a_task_whose_purger_was_killed_after_its_commit_is_swept(
    conn: Connection, database: Database, chores: Housekeeping, processes: Processes, old: int, export_dir: Path
) -> None:
    marked(conn, export_dir)
    program = (
        "import os, signal\n"
        "from pgfleet import housekeeping, log, settings, db\n"
        "from pgfleet_worker.housekeeping import Housekeeping\n"
        "housekeeping.remove = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "here = settings.from_env()\n"
        "with db.connect(here, 'pgfleet housekeeping', engine=True) as conn:\n"
        "    Housekeeping(here, log.get()).purge(conn)\n"
    )
    process = processes.run(sys.executable, "-c", program, settings=database.settings(export_dir=export_dir, **KEEP))
    assert process.wait(30) == -9, process.text()
    assert ids(conn) == []
    assert exports.of_owner(conn, 1) == []
    assert (export_dir / WHOLE).exists()
    chores.sweep(conn)
    assert not (export_dir / WHOLE).exists()


def test_files_that_can_not_be_removed_now_are_told_of_and_swept_later(
    conn: Connection, chores: Housekeeping, old: int, export_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marked(conn, export_dir)
    away = export_dir.rename(export_dir.with_name("away"))
    chores.purge(conn)
    chores.sweep(conn)
    assert ids(conn) == []
    assert "housekeeping.unremoved" in "".join(capsys.readouterr())
    assert value(conn, "select due_at <= now() from housekeeping where chore = 'sweep'"), "left to who has the volume"
    away.rename(export_dir)
    chores.sweep(conn)
    assert not (export_dir / WHOLE).exists()


def test_a_volume_shared_with_another_fleet_is_refused_with_a_word(
    conn: Connection, chores: Housekeeping, export_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marked(conn, export_dir)
    place(export_dir, ".pgfleet_00000000-0000-4000-8000-000000000000")
    place(export_dir, WHOLE)
    chores.sweep(conn)
    assert (export_dir / WHOLE).exists()
    assert "housekeeping.refused" in "".join(capsys.readouterr())


def test_a_chore_that_fails_costs_the_worker_nothing(
    database: Database, processes: Processes, wait_until: Wait, export_dir: Path
) -> None:
    conn = database.connect()
    conn.execute("alter table housekeeping rename to housekept")
    process = worker(processes, "--types", "echo", settings=database.settings(export_dir=export_dir, keep_success=1.0))
    process.wait_for_event("housekeeping.failed")
    assert wait_until(ended(conn, tasks.create(conn, "echo", created_by=1)))["status"] == "success"
    conn.execute("alter table housekept rename to housekeeping")
    wait_until(lambda: ids(conn) == [])
    assert process.stop() == 0
