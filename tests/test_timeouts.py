"""Tasks that take too long, and what is called off but does not heed it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from pgfleet import tasks
from tests.support.database import Database
from tests.support.fleet import Connection
from tests.support.following import ended, result
from tests.support.processes import Processes, is_alive
from tests.support.workers import attempting

Wait = Callable[..., Any]


def test_a_task_that_takes_too_long_fails_with_a_clear_error(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    process = attempting(processes, "--types", "hurried")
    row = wait_until(ended(conn, tasks.create(conn, "hurried", created_by=1)))
    assert (row["status"], row["error"], row["failure_count"]) == ("failure", "Timed out after 0.2 s.", 1)
    assert "RuntimeError: called off" in row["error_detail"]
    event = process.wait_for_event("task.timed_out")
    assert (event["task"], event["type"], event["attempt"]) == (row["id"], "hurried", 1)
    assert event["worker"] == row["worker"]


def test_a_timeout_is_a_failure_and_tried_again_like_any(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    attempting(processes, "--types", "hurried")
    id = tasks.create(conn, "hurried", created_by=1, max_retries=1, retry_delay=timedelta(0))
    row = wait_until(ended(conn, id))
    assert (row["status"], row["attempt"], row["failure_count"]) == ("failure", 2, 2)


def test_the_tasks_own_timeout_wins_over_its_types(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    attempting(processes, "--types", "heeds")
    gate = str(tmp_path / "gate")
    id = tasks.create(conn, "heeds", {"gate": gate}, created_by=1, timeout=timedelta(seconds=0.3))
    row = wait_until(ended(conn, id))
    assert (row["status"], row["error"]) == ("failure", "Timed out after 0.3 s.")


def test_the_types_row_wins_over_the_handler(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    conn.execute("select register_type('heeds', timeout => '0.25 seconds')")
    attempting(processes, "--types", "heeds")
    row = wait_until(ended(conn, tasks.create(conn, "heeds", {"gate": str(tmp_path / "gate")}, created_by=1)))
    assert (row["status"], row["error"]) == ("failure", "Timed out after 0.25 s.")


def test_a_changed_types_row_holds_for_the_tasks_that_start_after_a_heartbeat(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    attempting(processes, "--types", "heeds")
    gate = tmp_path / "gate"
    gate.touch()
    assert result(wait_until(ended(conn, tasks.create(conn, "heeds", {"gate": str(gate)}, created_by=1)))) == "done"
    conn.execute("update task_types set timeout = '0.1 seconds' where name = 'heeds'")
    gate.unlink()

    def timed_out() -> bool:
        id = tasks.create(conn, "heeds", {"gate": str(gate)}, created_by=1)
        wait_until(Path(f"{gate}.begun").exists)
        try:
            wait_until(ended(conn, id), timeout=1)
        except AssertionError:  # it began before the worker had heard
            gate.touch()
            wait_until(ended(conn, id))
            gate.unlink()
        return bool(tasks.get(conn, id)["error"] == "Timed out after 0.1 s.")

    wait_until(timed_out)


def test_what_finishes_although_its_time_is_over_has_succeeded(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    attempting(processes, "--types", "finishes")
    gate = {"gate": str(tmp_path / "gate")}
    row = wait_until(ended(conn, tasks.create(conn, "finishes", gate, created_by=1, timeout=timedelta(seconds=0.2))))
    assert result(row) == "done nonetheless"


def test_a_thread_that_ignores_its_timeout_is_abandoned_and_takes_its_slot_with_it(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    process = attempting(
        processes, "--types", "ignores,heeds", "--concurrency", "1", settings=database.settings(cancel_grace=0.2)
    )
    gate, other = tmp_path / "gate", tmp_path / "other"
    other.touch()
    id = tasks.create(conn, "ignores", {"gate": str(gate)}, created_by=1, timeout=timedelta(seconds=0.2))
    row = wait_until(ended(conn, id))
    assert (row["status"], row["error"]) == ("failure", "Timed out after 0.2 s.")
    assert "left to itself" in row["error_detail"]
    event = process.wait_for_event("task.abandoned")
    assert (event["task"], event["why"]) == (id, "timeout")
    waits = tasks.create(conn, "heeds", {"gate": str(other)}, created_by=1)
    looked = conn.execute("select now()").fetchone()
    wait_until(lambda: conn.execute("select now() - %s > interval '1 second'", looked).fetchone() == (True,))
    assert tasks.get(conn, waits)["status"] == "fresh", "its only slot is held"
    gate.touch()
    assert result(wait_until(ended(conn, waits))) == "done"
    wait_until(lambda: process.events("task.lost"))
    assert tasks.get(conn, id) == row, "what the thread returned in the end came too late"


def test_a_coroutine_is_cancelled_once_and_may_clean_up(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    attempting(processes, "--types", "cleans_up_async")
    gate = tmp_path / "gate"
    id = tasks.create(conn, "cleans_up_async", {"gate": str(gate)}, created_by=1, timeout=timedelta(seconds=1))
    row = wait_until(ended(conn, id))
    assert (row["status"], row["error"]) == ("failure", "Timed out after 1 s.")
    assert Path(f"{gate}.cleaned").exists()


def test_a_coroutine_that_swallows_its_cancellation_is_abandoned(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    process = attempting(processes, "--types", "ignores_async", settings=database.settings(cancel_grace=0.2))
    gate = tmp_path / "gate"
    id = tasks.create(conn, "ignores_async", {"gate": str(gate)}, created_by=1, timeout=timedelta(seconds=1))
    row = wait_until(ended(conn, id))
    assert (row["status"], row["error"]) == ("failure", "Timed out after 1 s.")
    assert Path(f"{gate}.cancelled").exists()
    process.wait_for_event("task.abandoned")


def child_is_there(conn: Connection, type: str, folder: Path, wait_until: Wait) -> None:
    """Let the one slot's process run a task to its end: its start is no part of the next one's time."""
    gate = folder / "open"
    gate.touch()
    id = tasks.create(conn, type, {"gate": str(gate), "busy": True}, created_by=1)
    assert result(wait_until(ended(conn, id))) == "done"


def test_a_process_is_told_to_stop_in_the_midst_of_a_system_call(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    one = ("--types", "gated_process", "--concurrency", "1")
    process = attempting(processes, *one, settings=database.settings(cancel_grace=600))
    child_is_there(conn, "gated_process", tmp_path, wait_until)
    gate = tmp_path / "gate"
    id = tasks.create(conn, "gated_process", {"gate": str(gate)}, created_by=1, timeout=timedelta(seconds=0.5))
    row = wait_until(ended(conn, id))
    assert (row["status"], row["error"]) == ("failure", "Timed out after 0.5 s.")
    assert Path(f"{gate}.cancelled").exists()
    assert process.events("child.died") == []


def test_a_process_that_ignores_sigterm_is_killed_with_all_it_has_started(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    attempting(
        processes, "--types", "stubborn_process", "--concurrency", "1", settings=database.settings(cancel_grace=0.3)
    )
    child_is_there(conn, "stubborn_process", tmp_path, wait_until)
    gate = tmp_path / "gate"
    id = tasks.create(conn, "stubborn_process", {"gate": str(gate)}, created_by=1, timeout=timedelta(seconds=1))
    row = wait_until(ended(conn, id))
    assert (row["status"], row["error"], row["crash_count"]) == ("failure", "Timed out after 1 s.", 0)
    assert "SIGKILL" in row["error_detail"]
    for pid in Path(f"{gate}.begun").read_text().split():
        wait_until(lambda pid=int(pid): not is_alive(pid))
    child_is_there(conn, "stubborn_process", tmp_path, wait_until)
