"""An operator's day with a real worker: what the API and the command ask for, it does, and they tell when it is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgfleet import tasks
from tests.support.database import Database
from tests.support.following import begun
from tests.support.processes import Processes
from tests.support.workers import worker

Wait = Callable[..., Any]


@pytest.fixture
def running(database: Database, processes: Processes, wait_until: Wait, tmp_path: Path) -> tuple[Any, int]:
    """A real worker named alpha, and the id of a task that it runs until it is told to stop, or its gate opens."""
    process = worker(processes, "--types", "gated", "--nickname", "alpha")
    gate = tmp_path / "gate"
    id = tasks.create(database.connect(), "gated", {"gate": str(gate), "heeds": True}, created_by=1)
    wait_until(begun(gate))
    return process, id


def test_a_reader_calls_off_a_running_task_and_polls_until_it_is_cancelled(
    running: tuple[Any, int], reader: Any, wait_until: Wait
) -> None:
    _, id = running
    assert reader("DELETE", f"/v1/tasks/{id}").status_code == 202
    wait_until(lambda: reader("GET", f"/v1/tasks/{id}").json["status"] == "cancelled", what="it is cancelled")
    (execution,) = reader("GET", f"/v1/tasks/{id}/executions").json["list"]
    assert (execution["status"], execution["worker"].partition(":")[0]) == ("cancelled", "alpha")


def test_the_command_waits_until_a_running_task_is_cancelled(running: tuple[Any, int], processes: Processes) -> None:
    _, id = running
    cancel = processes.start("tasks", "cancel", str(id), "--wait")
    assert cancel.wait() == 0, cancel.text()
    assert cancel.text().splitlines()[-1] == f"Task {id} is cancelled."


def test_the_command_waits_until_a_worker_has_drained(
    running: tuple[Any, int], processes: Processes, tmp_path: Path, database: Database
) -> None:
    process, id = running
    drain = processes.start("workers", "drain", "alpha", "--wait")
    process.wait_for_event("worker.draining")
    (tmp_path / "gate").touch()
    assert drain.wait() == 0, drain.text()
    assert drain.text().splitlines()[-1].endswith(" has ended.")
    assert process.wait() == 0
    assert tasks.get(database.connect(), id)["status"] == "success"


def test_an_admin_pauses_and_resumes_a_worker_over_http(running: tuple[Any, int], admin: Any, wait_until: Wait) -> None:
    process, _ = running
    (row,) = admin("GET", "/v1/workers").json
    assert (row["id"].partition(":")[0], row["status"], row["running"]) == ("alpha", "live", 1)
    assert admin("POST", f"/v1/workers/{row['id']}/pause").json["status"] == "paused"
    process.wait_for_event("worker.paused")
    assert admin("POST", f"/v1/workers/{row['id'].partition(':')[2]}/resume").json["status"] == "live"
    process.wait_for_event("worker.resumed")
