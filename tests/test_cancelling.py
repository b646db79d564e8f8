"""Running tasks that somebody cancels, by what runs them: a thread, a coroutine, a process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgfleet import tasks
from tests.support.database import Database
from tests.support.following import ended, result
from tests.support.processes import Processes, is_alive
from tests.support.workers import attempting

Wait = Callable[..., Any]


@pytest.mark.parametrize("type", ["heeds", "cleans_up_async", "gated_process"])
def test_a_cancelled_task_is_cancelled_once_its_work_has_stopped(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path, type: str
) -> None:
    conn = database.connect()
    process = attempting(processes, "--types", type)
    gate = tmp_path / "gate"
    id = tasks.create(conn, type, {"gate": str(gate)}, created_by=1, max_retries=5)
    wait_until(Path(f"{gate}.begun").exists)
    tasks.cancel(conn, id)
    row = wait_until(ended(conn, id))
    assert (row["status"], row["failure_count"], row["attempt"]) == ("cancelled", 0, 1)
    assert (row["error"], row["error_detail"]) == (None, None)
    event = process.wait_for_event("task.cancelled")
    assert (event["task"], event["type"], event["attempt"], event["worker"]) == (id, type, 1, row["worker"])
    assert process.events("task.failed") == []


def test_what_finishes_although_it_was_cancelled_has_succeeded(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    attempting(processes, "--types", "finishes")
    gate = tmp_path / "gate"
    id = tasks.create(conn, "finishes", {"gate": str(gate)}, created_by=1)
    wait_until(Path(f"{gate}.begun").exists)
    tasks.cancel(conn, id)
    assert result(wait_until(ended(conn, id))) == "done nonetheless"


def test_a_thread_that_ignores_its_cancellation_is_fenced_off(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    process = attempting(processes, "--types", "ignores", settings=database.settings(cancel_grace=0.5))
    gate = tmp_path / "gate"
    id = tasks.create(conn, "ignores", {"gate": str(gate)}, created_by=1)
    wait_until(Path(f"{gate}.begun").exists)
    tasks.cancel(conn, id)
    assert wait_until(ended(conn, id))["status"] == "cancelled"
    assert not Path(f"{gate}.passed").exists(), "its work had not stopped: the row was taken from it"
    assert process.wait_for_event("task.abandoned")["why"] == "cancelled"
    row = tasks.get(conn, id)
    gate.touch()
    process.wait_for_event("task.lost")
    assert tasks.get(conn, id) == row
    # And its slot is there again.
    again = tasks.create(conn, "ignores", {"gate": str(gate)}, created_by=1)
    assert result(wait_until(ended(conn, again))) == "done"


def test_a_process_that_ignores_its_cancellation_is_killed_with_all_it_has_started(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    attempting(processes, "--types", "stubborn_process", settings=database.settings(cancel_grace=0.3))
    gate = tmp_path / "gate"
    id = tasks.create(conn, "stubborn_process", {"gate": str(gate)}, created_by=1)
    wait_until(lambda: Path(f"{gate}.begun").exists() and Path(f"{gate}.begun").read_text())
    tasks.cancel(conn, id)
    row = wait_until(ended(conn, id))
    assert (row["status"], row["failure_count"], row["crash_count"]) == ("cancelled", 0, 0)
    for pid in Path(f"{gate}.begun").read_text().split():
        wait_until(lambda pid=int(pid): not is_alive(pid))


def test_not_now_is_no_failure(database: Database, processes: Processes, wait_until: Wait) -> None:
    conn = database.connect()
    process = attempting(processes, "--types", "not_now")
    id = tasks.create(conn, "not_now", created_by=1)
    row = wait_until(ended(conn, id))
    assert (result(row), row["attempt"], row["failure_count"], row["crash_count"]) == (2, 2, 0, 0)
    event = process.wait_for_event("task.released")
    assert (event["task"], event["delay"], event["reason"]) == (id, 0.05, "The tide is out.")


def test_every_transition_of_a_task_is_told_with_its_task_type_attempt_and_worker(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    process = attempting(processes, "--types", "steps,hurried,not_now", settings=database.settings(log_level="debug"))
    me = process.events("worker.registered")[0]["worker"]
    ids = [
        tasks.create(conn, "steps", {"file": str(tmp_path / "steps")}, created_by=1),
        tasks.create(conn, "hurried", created_by=1),
        tasks.create(conn, "not_now", created_by=1),
    ]
    for id in ids:
        wait_until(ended(conn, id))
    expected = [
        ["task.started", *["task.checkpointed"] * 4, "task.ran", "task.succeeded"],
        ["task.started", "task.timed_out", "task.ran", "task.failed"],
        ["task.started", "task.ran", "task.released", "task.started", "task.ran", "task.succeeded"],
    ]
    for id, names in zip(ids, expected, strict=True):

        def told(id: int = id) -> list[dict[str, Any]]:
            return [event for event in process.events() if event.get("task") == id]

        wait_until(lambda told=told, names=names: [event["event"] for event in told()] == names)
        for event in told():
            assert event["worker"] == me
            assert event["type"] == tasks.get(conn, id)["type"]
            assert event["attempt"] >= 1
