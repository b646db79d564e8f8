"""Work that goes on from where an earlier attempt had saved it."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from pgfleet import tasks
from tests.support.database import Database
from tests.support.following import begun, ended, result
from tests.support.processes import Processes
from tests.support.workers import attempting

Wait = Callable[..., Any]


def test_what_a_killed_worker_had_saved_is_not_done_again(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    gate, file = tmp_path / "gate", tmp_path / "steps"
    first = attempting(processes, "--types", "steps")
    id = tasks.create(conn, "steps", {"gate": str(gate), "file": str(file)}, created_by=1)
    wait_until(begun(gate))
    first.kill()
    gate.touch()
    attempting(processes, "--types", "steps")
    row = wait_until(ended(conn, id))
    assert result(row) == {"began_at": 2}
    assert file.read_text().splitlines() == ["1 0", "1 1", "2 2", "2 3"]
    assert row["attempt"] == 2


def test_a_crashed_task_goes_on_from_its_checkpoint_when_it_is_resumed_and_from_nothing_when_retried(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    conn.execute("select register_type('steps')")
    conn.execute("update task_types set max_crashes = 0 where name = 'steps'")
    files = [tmp_path / "resumed", tmp_path / "retried"]
    ids = []
    for file in files:
        gate = tmp_path / f"gate-{file.name}"
        first = attempting(processes, "--types", "steps")
        ids.append(tasks.create(conn, "steps", {"gate": str(gate), "file": str(file)}, created_by=1))
        wait_until(begun(gate))
        first.kill()
        gate.touch()
    second = attempting(processes, "--types", "steps")
    for id in ids:
        assert wait_until(ended(conn, id))["status"] == "crashed"
    tasks.resume(conn, ids[0])
    tasks.retry(conn, ids[1])
    wait_until(lambda: tasks.find(conn, status=["success"]).total == 2)
    assert files[0].read_text().splitlines() == ["1 0", "1 1", "2 2", "2 3"]
    assert files[1].read_text().splitlines() == ["1 0", "1 1", "2 0", "2 1", "2 2", "2 3"]
    assert second.stop() == 0


def test_a_process_goes_on_from_what_its_predecessor_saved_before_it_died(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    attempting(processes, "--types", "steps_process")
    id = tasks.create(conn, "steps_process", created_by=1, max_retries=1, retry_delay=timedelta(0))
    row = wait_until(ended(conn, id))
    assert (result(row), row["attempt"], row["failure_count"]) == ({"began_at": 2}, 2, 1)


def test_an_async_handler_saves_and_goes_on(database: Database, processes: Processes, wait_until: Wait) -> None:
    conn = database.connect()
    attempting(processes, "--types", "steps_async")
    row = wait_until(ended(conn, tasks.create(conn, "steps_async", created_by=1, max_retries=1)))
    assert (result(row), row["attempt"]) == ({"half": "way"}, 2)


def test_a_checkpoint_that_json_can_not_say_is_refused_and_costs_nothing_else(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    attempting(processes, "--types", "saves_too_much")
    row = wait_until(ended(conn, tasks.create(conn, "saves_too_much", created_by=1)))
    assert result(row) == ["ValueError", "TypeError", "ValueError"]


def test_what_is_called_off_at_the_end_of_its_worker_may_still_save(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    first = attempting(processes, "--types", "saves_when_stopped", settings=database.settings(grace=0.1))
    gate = tmp_path / "gate"
    id = tasks.create(conn, "saves_when_stopped", {"gate": str(gate)}, created_by=1)
    wait_until(begun(gate))
    assert first.stop() == 0
    row = tasks.get(conn, id)
    assert (row["status"], row["failure_count"]) == ("fresh", 0)
    attempting(processes, "--types", "saves_when_stopped")
    assert result(wait_until(ended(conn, id))) == "what there was"


def test_a_zombies_checkpoint_changes_nothing_and_ends_it(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    gate, file = tmp_path / "gate", tmp_path / "steps"
    zombie = attempting(processes, "--nickname", "zombie", "--types", "steps")
    id = tasks.create(conn, "steps", {"gate": str(gate), "file": str(file)}, created_by=1)
    wait_until(begun(gate))
    zombie.signal(signal.SIGSTOP)
    attempting(processes, "--nickname", "winner", "--types", "steps")
    wait_until(lambda: tasks.get(conn, id)["attempt"] == 2)
    gate.touch()
    row = wait_until(ended(conn, id))
    zombie.signal(signal.SIGCONT)
    # It does its third step, of which nobody knew, and is stopped when it wants to save it.
    wait_until(lambda: "1 2" in file.read_text().splitlines())
    zombie.wait_for_event("worker.lost")
    wait_until(lambda: [event for event in zombie.events("task.lost") if event["task"] == id])
    assert "1 3" not in file.read_text().splitlines()
    assert tasks.get(conn, id) == row
    assert row["worker"].startswith("winner:")


def test_a_checkpoint_waits_for_postgres(
    own_postgres: Any, away: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = away.connect()
    process = attempting(processes, "--types", "steps", settings=away.settings(lease=30.0))
    gate, file = tmp_path / "gate", tmp_path / "steps"
    id = tasks.create(conn, "steps", {"gate": str(gate), "file": str(file)}, created_by=1)
    wait_until(begun(gate))
    conn.close()
    own_postgres.stop()
    gate.touch()
    process.wait_for_event("report.waiting")
    assert file.read_text().splitlines() == ["1 0", "1 1", "1 2"], "it went on before its checkpoint was durable"
    own_postgres.start()
    conn = away.connect()
    row = wait_until(ended(conn, id))
    assert (result(row), row["attempt"]) == ({"began_at": 0}, 1)


def test_the_row_holds_the_checkpoint_while_the_task_runs(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    gate, file = tmp_path / "gate", tmp_path / "steps"
    attempting(processes, "--types", "steps")
    id = tasks.create(conn, "steps", {"gate": str(gate), "file": str(file)}, created_by=1)
    wait_until(begun(gate))
    row = conn.execute("select checkpoint from tasks where id = %s", (id,)).fetchone()
    assert row is not None
    assert json.loads(row[0]) == {"next": 2}
    gate.touch()
    wait_until(ended(conn, id))
