"""The fleet's own chores: schedules whose runs are tasks, one run at a time, and nothing is left behind however one dies."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pgfleet import exports, schedules, sql, tasks
from pgfleet.errors import RunUnfinished
from pgfleet.housekeeping import PURGE, SWEEP
from pgfleet.settings import Duration
from tests.support.database import Database
from tests.support.fleet import Connection, column, executions, put, register, value
from tests.support.following import ended
from tests.support.processes import Process, Processes
from tests.support.retention import KEEP, age, keeping_a_day
from tests.support.volumes import WHOLE, marked, place
from tests.support.workers import worker

Wait = Callable[..., Any]

#: A worker whose chores go in steps of one row or file, each followed by a rest and, after a spell, by an intermission.
IN_STEPS = """
import sys
from functools import partial
from pgfleet import housekeeping
from pgfleet_worker import housekeeping as worker
housekeeping.STEP = 1
housekeeping.purge_step = partial(housekeeping.purge_step, quantity=1)
worker.SPELL, worker.LEAST_REST = float(sys.argv[1]), float(sys.argv[2])
worker.INTERMISSION = worker.QUIET = 0.0
from pgfleet.cli.main import main
main(["worker", "--handlers", "tests.support.handlers", "--types", "echo"])
"""


@pytest.fixture
def conn(database: Database) -> Connection:
    conn = database.connect()
    register(conn)
    return conn


@pytest.fixture
def old(conn: Connection, export_dir: Path) -> int:
    """A task that succeeded two days ago, with a file and its row."""
    id = put(conn, "success")
    place(export_dir, WHOLE, hours=48)
    export(conn, id, WHOLE)
    age(conn, [id], 2)
    return id


@pytest.fixture
def keeping(processes: Processes, database: Database, export_dir: Path) -> Callable[..., Process]:
    """Starts a worker that keeps successes for a day and all else for ever."""
    return partial(keeping_a_day, processes, database, export_dir)


@pytest.fixture
def in_steps(processes: Processes, database: Database, export_dir: Path) -> Callable[..., Process]:
    """Starts one that does its chores in steps of one; see IN_STEPS."""

    def start(spell: float, rest: float, **more: Any) -> Process:
        here = database.settings(export_dir=export_dir, **{**KEEP, **more})
        process = processes.run(sys.executable, "-c", IN_STEPS, str(spell), str(rest), settings=here)
        process.wait_for_event("worker.registered", timeout=40)
        return process

    return start


def export(conn: Connection, task: int, filename: str) -> None:
    conn.execute(
        "insert into exports (filename, owner_id, task_id, format, bytes, sha256) values (%s, 1, %s, 'csv', 6, %s)",
        [filename, task, "0" * 64],
    )


def ids(conn: Connection) -> list[int]:
    """The tasks that are no chore's runs."""
    return column(conn, "select id from tasks where not starts_with(type, 'pgfleet.') order by id")


def run(conn: Connection, wait_until: Wait, chore: str) -> dict[str, Any]:
    """One run of the chore by hand; its task, once that has ended."""
    row: dict[str, Any] = wait_until(ended(conn, schedules.trigger(conn, chore)), timeout=40)
    return row


@contextmanager
def gated(conn: Connection, database: Database) -> Iterator[None]:
    """While this lasts, a purge stands still before it deletes a task."""
    conn.execute(
        "create function gate() returns trigger language plpgsql as $$ begin"
        " while not pg_try_advisory_xact_lock(77) loop perform pg_sleep(0.01); end loop; return old; end $$;"
        " create trigger gate before delete on tasks for each row execute function gate()"
    )
    with database.connect() as keeper:
        keeper.execute("select pg_advisory_lock(77)")
        yield


def at_the_gate(conn: Connection) -> int:
    return int(
        value(
            conn,
            "select count(*) from pg_stat_activity where state = 'active' and query like '%%purge_tasks%%'"
            " and datname = current_database() and application_name = 'pgfleet housekeeping'",
        )
    )


def test_a_worker_purges_finished_tasks_with_their_files_once_their_term_is_over(
    database: Database, processes: Processes, export_dir: Path, wait_until: Wait
) -> None:
    conn = database.connect()
    conn.execute(sql.text("demo/library.sql"))
    here = database.settings(export_dir=export_dir, keep_success=Duration(1), keep_failure=Duration(0))
    process = worker(processes, "--types", "csv_export,boom", settings=here)
    broke = tasks.create(conn, "boom", created_by=1)
    assert wait_until(ended(conn, broke), timeout=40)["status"] == "failure"
    id = tasks.create(conn, "csv_export", created_by=1)
    wait_until(lambda: process.events("task.published"), timeout=40)
    wait_until(lambda: ids(conn) == [broke], timeout=40)
    wait_until(lambda: list(export_dir.glob("*.csv")) == [], timeout=40)
    assert exports.of_owner(conn, 1) == []
    assert id != broke
    wait_until(lambda: sum(event["files"] for event in process.events("housekeeping.purged")) == 1, timeout=40)
    assert {status for event in process.events("housekeeping.purged") for status in event["tasks"]} == {"success"}


def test_a_chore_is_a_schedule_with_runs_and_their_results(
    conn: Connection, keeping: Callable[..., Process], old: int, export_dir: Path, wait_until: Wait
) -> None:
    marked(conn, export_dir)
    half = place(export_dir, ".export_4711_2_abcABC12.tmp")
    orphan = place(export_dir, "export_260131_bbbbbbbbbbbb.csv")
    process = keeping()
    found = {one.name: one for one in schedules.find(conn, group="housekeeping").schedules}
    assert list(found) == [PURGE, SWEEP]
    for one in found.values():
        assert (one.declared, one.stale, one.enabled, one.overlap, one.catch_up) == (True, False, True, "skip", "once")
        assert one.next_due is not None
        assert (one.next_due - one.created_at).total_seconds() == 3600
    purged, swept = run(conn, wait_until, PURGE), run(conn, wait_until, SWEEP)
    assert (purged["status"], json.loads(purged["result"])) == ("success", {"tasks": {"success": 1}, "files": 1})
    assert (swept["status"], json.loads(swept["result"])) == ("success", {"files": 2})
    assert ids(conn) == []
    assert list(export_dir.glob("*export_*")) == []
    assert [row["id"] for row in schedules.runs(conn, PURGE).rows] == [purged["id"]]
    assert schedules.get(conn, SWEEP).successes == 1
    told = {
        event["filename"]: (event["task"], event["attempt"], event["bytes"])
        for event in process.events("housekeeping.swept")
    }
    assert told == {half.name: (4711, 2, 6), orphan.name: (None, None, 6)}


def test_one_run_goes_at_a_time_in_the_whole_fleet(
    conn: Connection, database: Database, keeping: Callable[..., Process], old: int, wait_until: Wait
) -> None:
    for _ in range(2):
        keeping()
    with gated(conn, database):
        first = schedules.trigger(conn, PURGE)
        wait_until(lambda: at_the_gate(conn) == 1, timeout=40)
        with pytest.raises(RunUnfinished):
            schedules.trigger(conn, PURGE)
        second = tasks.create(conn, PURGE, created_by=0)  # past the schedule
        for _ in range(20):  # there is room for it, on both
            assert wait_until(ended(conn, tasks.create(conn, "echo", created_by=1)), timeout=40)["status"] == "success"
        assert (tasks.get(conn, second)["status"], at_the_gate(conn)) == ("fresh", 1)
    earlier, later = (wait_until(ended(conn, id), timeout=40) for id in (first, second))
    assert (earlier["status"], later["status"]) == ("success", "success")
    assert later["started_at"] >= earlier["updated_on"]


def test_a_long_purge_gives_its_slot_back_and_goes_on_where_it_was(
    conn: Connection, in_steps: Callable[..., Process], wait_until: Wait
) -> None:
    kept = [put(conn, "failure") for _ in range(3)]  # one step from the beginning would get past none of them
    made = [put(conn, "success") for _ in range(2)]
    age(conn, [*kept, *made], 2)
    in_steps(0.0, 0.0)
    row = run(conn, wait_until, PURGE)
    assert (row["status"], row["failure_count"], row["crash_count"]) == ("success", 0, 0)
    assert json.loads(row["result"]) == {"tasks": {"success": 2}, "files": 0}
    assert [one["status"] for one in executions(conn, row["id"])] == ["released"] * 5 + ["success"]
    assert ids(conn) == kept


def test_a_long_sweep_gives_its_slot_back_and_goes_on_where_it_was(
    conn: Connection, in_steps: Callable[..., Process], old: int, export_dir: Path, wait_until: Wait
) -> None:
    marked(conn, export_dir)
    for letter in "bcd":
        place(export_dir, f"export_260131_{letter * 12}.csv")
    export(conn, put(conn, "success"), "export_260131_cccccccccccc.csv")
    in_steps(0.0, 0.0)
    row = run(conn, wait_until, SWEEP)
    assert (row["status"], json.loads(row["result"])) == ("success", {"files": 2})
    assert [one["status"] for one in executions(conn, row["id"])] == ["released"] * 4 + ["success"]
    assert sorted(path.name[14] for path in export_dir.glob("*.csv")) == ["a", "c"]


def test_a_worker_that_stops_takes_its_purge_out_of_a_rest_and_keeps_how_far_it_was(
    conn: Connection, in_steps: Callable[..., Process], wait_until: Wait
) -> None:
    made = [put(conn, "success") for _ in range(2)]
    age(conn, made, 2)
    process = in_steps(600.0, 600.0, grace=600.0)
    id = schedules.trigger(conn, PURGE)
    process.wait_for_event("housekeeping.purged", timeout=40)
    wait_until(lambda: tasks.get(conn, id)["current_step"] == "1 tasks removed so far", timeout=40)
    assert process.stop(timeout=60) == 0
    row = tasks.get(conn, id)
    assert (row["status"], row["failure_count"]) == ("fresh", 0)
    assert json.loads(row["checkpoint"]) == {"after": made[0], "tasks": {"success": 1}, "files": 0}


def test_a_killed_workers_purge_is_taken_over_by_another(
    conn: Connection, database: Database, keeping: Callable[..., Process], old: int, export_dir: Path, wait_until: Wait
) -> None:
    fleet = [keeping("--nickname", f"n{n}") for n in range(2)]
    with gated(conn, database):
        id = schedules.trigger(conn, PURGE)
        wait_until(lambda: at_the_gate(conn) == 1, timeout=40)
        fleet[int(tasks.get(conn, id)["worker"][1])].kill()
        # Its session would wait on; that of a server that is gone is noticed likewise, in 25 s.
        conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pgfleet housekeeping'"
            " and datname = current_database()"
        )
        wait_until(lambda: tasks.get(conn, id)["attempt"] == 2 and at_the_gate(conn) == 1, timeout=60)
        assert ids(conn) == [old]
        assert (export_dir / WHOLE).exists()
    row = wait_until(ended(conn, id), timeout=40)
    assert (row["status"], json.loads(row["result"])) == ("success", {"tasks": {"success": 1}, "files": 1})
    assert not (export_dir / WHOLE).exists()


def test_the_file_of_a_task_whose_purger_was_killed_after_its_commit_is_swept(
    conn: Connection,
    database: Database,
    processes: Processes,
    keeping: Callable[..., Process],
    old: int,
    export_dir: Path,
    wait_until: Wait,
) -> None:
    marked(conn, export_dir)
    program = (
        "import os, signal\n"
        "from pgfleet import housekeeping\n"
        "housekeeping.remove = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from pgfleet.cli.main import main\n"
        "main(['worker', '--types', 'csv_export'])\n"
    )
    here = database.settings(export_dir=export_dir, **KEEP)
    process = processes.run(sys.executable, "-c", program, settings=here)
    process.wait_for_event("worker.registered", timeout=40)
    id = schedules.trigger(conn, PURGE)
    assert process.wait(40) == -9, process.text()
    assert ids(conn) == []
    assert exports.of_owner(conn, 1) == []
    assert (export_dir / WHOLE).exists()
    keeping()
    assert wait_until(ended(conn, id), timeout=60)["attempt"] == 2
    assert json.loads(run(conn, wait_until, SWEEP)["result"]) == {"files": 1}
    assert not (export_dir / WHOLE).exists()


def test_files_that_can_not_be_removed_now_are_told_of_and_swept_later(
    conn: Connection, keeping: Callable[..., Process], old: int, export_dir: Path, wait_until: Wait
) -> None:
    marked(conn, export_dir)
    process = keeping()
    away = export_dir.rename(export_dir.with_name("away"))
    assert json.loads(run(conn, wait_until, PURGE)["result"]) == {"tasks": {"success": 1}, "files": 0}
    assert process.wait_for_event("housekeeping.unremoved")["filename"] == WHOLE
    id = schedules.trigger(conn, SWEEP)
    process.wait_for_event("housekeeping.failed", timeout=40)
    wait_until(lambda: tasks.get(conn, id)["status"] == "waiting", timeout=40)  # it will be tried again
    tasks.cancel(conn, id)
    away.rename(export_dir)
    assert json.loads(run(conn, wait_until, SWEEP)["result"]) == {"files": 1}
    assert not (export_dir / WHOLE).exists()


def test_a_volume_shared_with_another_fleet_is_refused_with_a_word(
    conn: Connection, keeping: Callable[..., Process], export_dir: Path, wait_until: Wait
) -> None:
    marked(conn, export_dir)
    place(export_dir, ".pgfleet_00000000-0000-4000-8000-000000000000")
    place(export_dir, WHOLE)
    process = keeping()
    row = run(conn, wait_until, SWEEP)
    assert row["status"] == "failure"
    assert "Another fleet" in row["error"]
    assert process.wait_for_event("housekeeping.refused")["hint"]
    assert (export_dir / WHOLE).exists()


def test_a_chore_that_fails_costs_the_worker_nothing(
    conn: Connection, keeping: Callable[..., Process], old: int, wait_until: Wait
) -> None:
    process = keeping()
    conn.execute("alter function purge_tasks rename to purge_nothing")
    id = schedules.trigger(conn, PURGE)
    process.wait_for_event("housekeeping.failed", timeout=40)
    wait_until(lambda: tasks.get(conn, id)["status"] == "waiting", timeout=40)
    assert wait_until(ended(conn, tasks.create(conn, "echo", created_by=1)), timeout=40)["status"] == "success"
    conn.execute("alter function purge_nothing rename to purge_tasks")
    tasks.cancel(conn, id)
    assert run(conn, wait_until, PURGE)["status"] == "success"
    assert old not in ids(conn)
    assert process.stop() == 0
