"""The fleet's own chores as schedules: which worker declares and serves them, who may see, make and disable them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pgfleet import schedules, tasks
from pgfleet.errors import UnknownType
from pgfleet.housekeeping import PURGE, SWEEP
from pgfleet.settings import Duration
from tests.support.database import Database
from tests.support.fleet import Connection, column, register, value
from tests.support.processes import Process, Processes
from tests.support.retention import KEEP, keeping_a_day

Wait = Callable[..., Any]


@pytest.fixture
def conn(database: Database) -> Connection:
    conn = database.connect()
    register(conn)
    return conn


@pytest.fixture
def keeping(processes: Processes, database: Database, export_dir: Path) -> Callable[..., Process]:
    """Starts a worker that keeps successes for a day and all else for ever."""
    return partial(keeping_a_day, processes, database, export_dir)


@pytest.mark.parametrize(
    ("arguments", "more", "served"),
    [
        (("--no-schedules",), {}, []),
        (("--only-targeted",), {}, []),
        ((), {"export_dir": Path("/nowhere")}, [PURGE]),
        ((), {}, [PURGE, SWEEP]),
    ],
    ids=["without-schedules", "only-targeted", "without-the-volume", "others"],
)
def test_a_worker_has_the_chores_that_it_can_do(
    conn: Connection, keeping: Callable[..., Process], arguments: tuple[str, ...], more: Any, served: list[str]
) -> None:
    keeping(*arguments, **more)
    assert column(conn, "select name from schedules order by name") == served
    assert column(conn, "select name from task_types where starts_with(name, 'pgfleet.') order by name") == served
    assert value(conn, "select types from workers where node = 'test-node'") == ["echo"]


def test_no_reader_sees_or_makes_a_chore(
    conn: Connection, database: Database, keeping: Callable[..., Process], reader: Any
) -> None:
    keeping()
    assert reader("POST", "/v1/tasks", json={"type": PURGE, "data": {}}).status_code == 403
    assert "pgfleet." not in reader("POST", "/v1/tasks", json={"type": "nonesuch", "data": {}}).get_data(as_text=True)
    with pytest.raises(UnknownType) as caught:
        tasks.create(conn, "nonesuch", created_by=1)
    assert caught.value.detail == "Known types: csv_export, echo, job."


@pytest.mark.parametrize("line", ['@handler("pgfleet.mine")', '@schedule("pgfleet.mine", every=60)'])
def test_a_name_as_the_fleets_own_is_refused(processes: Processes, tmp_path: Path, line: str) -> None:
    (tmp_path / "mine.py").write_text(
        f"from pgfleet_worker import handler, schedule\n{line}\n@handler('mine')\ndef mine(task): ...\n"
        if "schedule(" in line
        else f"from pgfleet_worker import handler\n{line}\ndef mine(task): ...\n"
    )
    process = processes.worker("--handlers", "mine", env={"PYTHONPATH": str(tmp_path)})
    assert process.wait(40) != 0
    assert "the fleet's own" in process.text()


def test_ten_workers_that_start_at_once_make_one_schedule_of_each_chore(
    conn: Connection, database: Database, processes: Processes, export_dir: Path
) -> None:
    here = database.settings(export_dir=export_dir, **KEEP)
    fleet = [processes.worker("--types", "csv_export", settings=here) for _ in range(10)]
    for one in fleet:
        one.wait_for_event("worker.registered", timeout=90)
    assert column(conn, "select name from schedules order by name") == [PURGE, SWEEP]
    assert column(conn, "select schedule from triggers order by 1") == [PURGE, SWEEP]


def test_a_worker_that_starts_while_somebody_holds_a_chores_schedule_waits_for_it(
    conn: Connection, database: Database, processes: Processes, keeping: Callable[..., Process], export_dir: Path
) -> None:
    assert keeping().stop() == 0
    here = database.settings(export_dir=export_dir, answer_timeout=1.0, **KEEP)
    with database.connect(autocommit=False) as operator:
        operator.execute("select enable_schedule(%s, false)", [PURGE])
        process = processes.worker("--types", "csv_export", settings=here)
        process.wait_for_event("database.refused", timeout=40)
        operator.rollback()
    process.wait_for_event("worker.registered", timeout=40)


def test_an_operators_disable_outlives_a_restart(
    conn: Connection, keeping: Callable[..., Process], wait_until: Wait
) -> None:
    first = keeping(keep_success=Duration(5))
    schedules.disable(conn, PURGE)
    newest = value(conn, "select coalesce(max(id), 0) from tasks")
    assert first.stop() == 0
    conn.execute("update triggers set due_at = now()")
    keeping(keep_success=Duration(5))
    wait_until(lambda: schedules.runs(conn, SWEEP).rows, timeout=40)  # both were due, to the same look
    assert [row["id"] for row in schedules.runs(conn, PURGE).rows if row["id"] > newest] == []
    assert not schedules.get(conn, PURGE).enabled
