"""Attempts that end late, or beside their task's next one: none has a say in what isn't its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pgfleet import log, tasks
from pgfleet.settings import Settings
from pgfleet_worker.attempt import Attempts
from pgfleet_worker.handler import load
from pgfleet_worker.outcome import CalledOff, Claimed, Outcome, Released
from tests.support.database import Database
from tests.support.following import ended, result
from tests.support.processes import Processes, is_alive
from tests.support.workers import worker

Wait = Callable[..., Any]
TYPES = ("heeds", "ignores", "stubborn_process")


class Slots:
    """A worker's attempts, and a thread for each."""

    def __init__(self, settings: Settings, gate: Path) -> None:
        self.outcomes: list[Outcome] = []
        self.attempts = Attempts(
            settings, log.get(), load(("tests.support.attempts",), TYPES), self.outcomes.append, lambda **_: None
        )
        self.attempts.worker = "me"
        self._data = json.dumps({"gate": str(gate)})

    def run(self, type: str, attempt: int = 1) -> threading.Thread:
        thread = threading.Thread(
            target=self.attempts.run, args=(Claimed(1, type, self._data, 1, attempt, 0, 0, None, None),), daemon=True
        )
        thread.start()
        return thread


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


@pytest.fixture
def slots(database: Database, gate: Path) -> Iterator[Slots]:
    made = Slots(database.settings(cancel_grace=1.0), gate)
    yield made
    gate.touch()
    made.attempts.close()


@pytest.mark.parametrize(("why", "told"), [("cancelled", CalledOff), ("lost", Released)])
def test_of_an_abandoned_attempt_it_is_said_once_what_became_of_it(
    slots: Slots, gate: Path, wait_until: Wait, why: Any, told: type[Outcome]
) -> None:
    # Said again it could settle another run: a claim that a crash of Postgres took back is made anew under its number.
    thread = slots.run("ignores")
    wait_until(Path(f"{gate}.begun").exists)
    assert slots.attempts.cancel(1, 1, why)
    wait_until(lambda: slots.outcomes)
    gate.touch()
    thread.join(40)
    assert [type(outcome) for outcome in slots.outcomes] == [told]
    assert not slots.attempts.abandoned


def test_a_process_of_a_lost_worker_is_killed_although_its_task_runs_again_beside_it(
    slots: Slots, gate: Path, wait_until: Wait
) -> None:
    begun = Path(f"{gate}.begun")
    slots.run("stubborn_process")
    wait_until(lambda: begun.exists() and begun.read_text())
    first = int(begun.read_text().split()[0])
    slots.attempts.cancel_all("lost")
    slots.run("stubborn_process", attempt=2)
    wait_until(lambda: 2 in [task.attempt for task in list(slots.attempts.running.values())])
    wait_until(lambda: not is_alive(first))


def test_what_a_slot_takes_while_the_worker_stops_goes_back(slots: Slots) -> None:
    slots.attempts.cancel_all("stopping")
    slots.run("heeds").join(40)
    assert [type(outcome) for outcome in slots.outcomes] == [Released]


def test_a_thread_that_outlives_its_task_reports_nothing_on_the_processs_next_one(
    database: Database, processes: Processes, wait_until: Wait, gate: Path
) -> None:
    conn = database.connect()
    worker(processes, "--types", "outlives", "--concurrency", "1")
    wait_until(ended(conn, tasks.create(conn, "outlives", {"gate": str(gate)}, created_by=1)))
    id = tasks.create(conn, "outlives", {"gate": str(gate), "next": True}, created_by=1)
    assert wait_until(ended(conn, id))["status"] == "failure"
    row = conn.execute("select checkpoint, current_step, progress from tasks where id = %s", [id]).fetchone()
    assert row == (None, None, None)


def test_a_process_that_says_what_nobody_understands_fails_that_task_alone(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    worker(processes, "--types", "garbles", "--concurrency", "1")
    garbled = tasks.create(conn, "garbles", True, created_by=1)
    assert wait_until(ended(conn, garbled))["status"] == "failure"
    id = tasks.create(conn, "garbles", created_by=1)
    assert result(wait_until(ended(conn, id))) == id
