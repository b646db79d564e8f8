"""The end in phases: nothing more is taken, what runs may finish, is called off, is given back; signals hurry it."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pgfleet import tasks
from tests.support.database import Database
from tests.support.following import begun, ended, register
from tests.support.processes import Processes
from tests.support.workers import ATTEMPTS, worker

Wait = Callable[..., Any]


def test_a_second_signal_skips_the_rest_of_the_grace_and_charges_no_failure(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    process = worker(processes, *ATTEMPTS, "--types", "gated,gated_process", settings=database.settings(grace=600))
    gates = [tmp_path / f"gate{n}" for n in range(3)]
    ids = [
        tasks.create(conn, "gated", {"gate": str(gates[0]), "heeds": True}, created_by=1),
        tasks.create(conn, "gated", {"gate": str(gates[1])}, created_by=1),  # hears nothing
        tasks.create(conn, "gated_process", {"gate": str(gates[2])}, created_by=1),
    ]
    for gate in gates:
        wait_until(begun(gate))
    process.signal(signal.SIGTERM)
    process.wait_for_event("worker.stopping")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    for id in ids:
        row = tasks.get(conn, id)
        assert (row["status"], row["failure_count"], row["crash_count"]) == ("fresh", 0, 0)
        assert conn.execute("select attempt, status from task_attempts where task_id = %s", (id,)).fetchall() == [
            (1, "released")
        ]


def test_a_third_signal_ends_it_at_once_and_its_tasks_are_still_rescued(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn, blocker = database.connect(), database.connect(autocommit=False)
    process = worker(processes, "--types", "gated", settings=database.settings(grace=600, lease=600.0))
    gate = tmp_path / "gate"
    id = tasks.create(conn, "gated", {"gate": str(gate), "heeds": True}, created_by=1)
    wait_until(begun(gate))
    process.signal(signal.SIGTERM)
    process.wait_for_event("worker.stopping")
    blocker.execute("lock table tasks in share mode")  # what is to be given back can't be
    process.signal(signal.SIGTERM)
    process.wait_for_event("worker.grace_over")
    process.signal(signal.SIGTERM)
    assert process.wait() == 1
    blocker.rollback()
    wait_until(lambda: tasks.get(conn, id)["status"] == "fresh")


def test_a_task_may_still_be_cancelled_in_the_grace_period(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    process = worker(processes, "--types", "gated", settings=database.settings(grace=600))
    gate = tmp_path / "gate"
    id = tasks.create(conn, "gated", {"gate": str(gate), "heeds": True}, created_by=1)
    wait_until(begun(gate))
    process.signal(signal.SIGTERM)
    process.wait_for_event("worker.stopping")
    conn.execute("select cancel_task(%s)", (id,))
    assert process.wait() == 0
    assert tasks.get(conn, id)["status"] == "cancelled"


def test_a_rolling_restart_under_load_finishes_every_task_without_a_failure_or_a_crash(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    register(conn, "echo_slowly", "marks")
    options = ("--types", "echo_slowly,marks", "--concurrency", "4")
    here = database.settings(lease=60.0)  # what is given back needs no rescue
    fleet = [worker(processes, *options, settings=here) for _ in range(4)]
    file = tmp_path / "marks"
    ids: list[int] = []

    def under_load() -> bool:
        """Do more run than one worker can hold? However fast they are done, there are more."""
        if tasks.find(conn, status=["fresh"]).total < 200:
            ids.extend(tasks.create_many(conn, "echo_slowly", [None] * 200, created_by=1))
            ids.extend(tasks.create_many(conn, "marks", [{"file": str(file)}] * 200, created_by=1))
        return tasks.find(conn, status=["started"]).total > 4

    for n in range(len(fleet)):
        wait_until(under_load)
        assert fleet[n].stop() == 0
        fleet[n] = worker(processes, *options, settings=here)
    wait_until(lambda: tasks.find(conn, status=["success"]).total == len(ids), timeout=90)
    assert conn.execute("select sum(failure_count), sum(crash_count) from tasks").fetchone() == (0, 0)
    runs = Counter(line.split()[0] for line in file.read_text().splitlines())
    assert set(runs.values()) == {1}
    assert not conn.execute("select 1 from task_attempts where status <> 'released'").fetchall()
    for process in processes.started:
        assert not process.events("worker.lost")
        assert not process.events("task.lost")
        assert process in fleet or process.wait() == 0


def test_a_worker_without_work_ends_at_once(database: Database, processes: Processes, wait_until: Wait) -> None:
    conn = database.connect()
    process = worker(processes, "--types", "echo", settings=database.settings(poll=600, grace=600))
    wait_until(ended(conn, tasks.create(conn, "echo", created_by=1)))
    assert process.stop() == 0
    assert conn.execute("select count(*) from workers").fetchone() == (0,)
