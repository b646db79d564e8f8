"""The keeper: the lease is kept while the interpreter is held, and given up when the worker dies or stands still."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgfleet import tasks
from tests.support.database import Database
from tests.support.following import begun, ended
from tests.support.processes import Process, Processes, is_alive
from tests.support.workers import attempting, worker

Wait = Callable[..., Any]

#: A lease, in seconds, that no test outlives: who is rescued under it was given up by its keeper.
LONG = {"lease": 600.0, "heartbeat": 0.2}
#: One that lapses within a test, but not because a machine is busy for a moment.
SHORT = {"lease": 2.5, "heartbeat": 0.3}


def children(process: Process) -> dict[int, str]:
    """The names of its child processes, by pid."""
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return {int(pid): Path(f"/proc/{pid}/comm").read_text().strip() for pid in listed}


def keeper(process: Process) -> int:
    (pid,) = [pid for pid, name in children(process).items() if name == "pgfleet-keeper"]
    return pid


def seconds_pass(database: Database, seconds: float) -> Callable[[], bool]:
    """Have so many gone by, on the database's clock?"""
    conn = database.connect()
    (since,) = conn.execute("select now()").fetchone() or (None,)
    return lambda: conn.execute("select now() - %s > %s * interval '1 second'", (since, seconds)).fetchone() == (True,)


AtTheGate = tuple[Process, int, Path]


@pytest.fixture
def at_the_gate(database: Database, processes: Processes, wait_until: Wait, tmp_path: Path) -> AtTheGate:
    """A worker with a short lease, the task that it holds, and the gate at which that waits. Another worker would rescue it."""
    here = database.settings(**SHORT)
    gate = tmp_path / "gate"
    process = worker(processes, "--types", "gated", settings=here)
    worker(processes, "--types", "echo", settings=here)
    id = tasks.create(database.connect(), "gated", {"gate": str(gate)}, created_by=1)
    wait_until(begun(gate))
    return process, id, gate


def test_a_handler_that_holds_the_interpreter_for_several_leases_keeps_its_task(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    here = database.settings(**SHORT)
    hog = worker(processes, "--types", "hogs", settings=here)
    worker(processes, "--types", "echo", settings=here)  # would rescue it
    data = {"gate": str(tmp_path / "gate"), "seconds": 6.0}
    row = wait_until(ended(conn, tasks.create(conn, "hogs", data, created_by=1)))
    assert (row["status"], row["attempt"], row["crash_count"]) == ("success", 1, 0)
    assert not hog.events("worker.lost")


def test_what_a_killed_workers_handlers_have_started_dies_with_it(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    gate = tmp_path / "gate"
    process = attempting(processes, "--types", "stubborn_process", settings=database.settings(**LONG))
    tasks.create(conn, "stubborn_process", {"gate": str(gate)}, created_by=1)
    wait_until(lambda: begun(gate)() and Path(f"{gate}.begun").read_text())
    child, its_own = map(int, Path(f"{gate}.begun").read_text().split())
    process.signal(signal.SIGKILL)
    wait_until(lambda: not is_alive(child))
    wait_until(lambda: not is_alive(its_own))


def test_a_killed_workers_tasks_are_rescued_long_before_its_lease_ends(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    gate = tmp_path / "gate"
    first = worker(processes, "--nickname", "first", "--types", "gated", settings=database.settings(**LONG))
    id = tasks.create(conn, "gated", {"gate": str(gate)}, created_by=1)
    wait_until(begun(gate))
    watch = keeper(first)
    worker(processes, "--nickname", "second", "--types", "gated", settings=database.settings(**LONG))
    first.signal(signal.SIGKILL)
    wait_until(lambda: tasks.get(conn, id)["attempt"] == 2)
    gate.touch()
    row = wait_until(ended(conn, id))
    assert (row["status"], row["failure_count"], row["crash_count"]) == ("success", 0, 1)
    assert row["worker"].startswith("second:")
    wait_until(lambda: first.events("worker.died"))
    wait_until(lambda: not is_alive(watch))


def test_a_worker_killed_while_postgres_is_away_is_given_up_when_it_is_back(
    own_postgres: Any, away: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = away.connect()
    gate = tmp_path / "gate"
    process = worker(processes, "--types", "gated", settings=away.settings(**LONG))
    id = tasks.create(conn, "gated", {"gate": str(gate)}, created_by=1)
    wait_until(begun(gate))
    conn.close()
    own_postgres.stop()
    process.wait_for_event("database.away")
    process.signal(signal.SIGKILL)
    process.wait()
    own_postgres.start()
    conn = away.connect()
    wait_until(lambda: tasks.get(conn, id)["status"] == "fresh")


def test_a_worker_that_stands_still_loses_its_lease(
    database: Database, at_the_gate: AtTheGate, wait_until: Wait
) -> None:
    zombie, id, gate = at_the_gate
    conn = database.connect()
    zombie.signal(signal.SIGSTOP)
    wait_until(lambda: tasks.get(conn, id)["status"] == "fresh")
    zombie.wait_for_event("heartbeat.paused")
    zombie.signal(signal.SIGCONT)
    wait_until(lambda: len(zombie.events("worker.registered")) >= 2)
    gate.touch()
    row = wait_until(ended(conn, id))
    assert (row["status"], row["attempt"]) == ("success", 2)


def test_without_its_keeper_the_worker_keeps_the_lease_itself(
    database: Database, at_the_gate: AtTheGate, wait_until: Wait
) -> None:
    process, id, gate = at_the_gate
    conn = database.connect()
    os.kill(keeper(process), signal.SIGKILL)
    assert process.wait_for_event("keeper.lost")["why"] == "dead"
    assert children(process) == {}
    wait_until(seconds_pass(database, 6.0))
    gate.touch()
    row = wait_until(ended(conn, id))
    assert (row["status"], row["attempt"]) == ("success", 1)
    assert process.stop() == 0
    assert conn.execute("select count(*) from workers where id = %s", (row["worker"],)).fetchone() == (0,)


def test_a_keeper_that_falls_silent_is_replaced(database: Database, processes: Processes, wait_until: Wait) -> None:
    conn = database.connect()
    process = worker(processes, "--types", "echo", settings=database.settings(**SHORT, database_timeout=0.5))
    os.kill(keeper(process), signal.SIGSTOP)
    assert process.wait_for_event("keeper.lost")["why"] == "silent"
    assert children(process) == {}
    assert wait_until(ended(conn, tasks.create(conn, "echo", created_by=1)))["status"] == "success"
    assert process.stop() == 0


def test_a_signal_to_the_whole_process_group_ends_the_keeper_last(
    database: Database, at_the_gate: AtTheGate, wait_until: Wait
) -> None:
    process, id, gate = at_the_gate
    watch = keeper(process)
    os.killpg(process.pid, signal.SIGINT)
    process.wait_for_event("worker.stopping")
    wait_until(seconds_pass(database, 4.5))
    gate.touch()
    assert process.wait() == 0
    row = tasks.get(database.connect(), id)
    assert (row["status"], row["attempt"], row["crash_count"]) == ("success", 1, 0)
    assert not is_alive(watch)
