"""Operators' orders to a worker: pause, go on, drain; and what a worker may be started without."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgfleet import tasks
from pgfleet.workers import order_worker
from tests.support.database import Database
from tests.support.following import begun, ended, register, statuses
from tests.support.processes import Processes
from tests.support.workers import ATTEMPTS, id_of, sleeping, worker

Wait = Callable[..., Any]


@pytest.mark.parametrize("how", [(), ("--no-listen",)], ids=["listening", "deaf"])
def test_a_paused_worker_finishes_what_runs_takes_nothing_and_goes_on_when_told(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path, how: tuple[str, ...]
) -> None:
    conn = database.connect()
    here = database.settings(poll=600, lease=600.0, heartbeat=150.0)
    process = worker(processes, "--types", "gated,echo", "--concurrency", "1", *how, settings=here)
    gate = tmp_path / "gate"
    running = tasks.create(conn, "gated", {"gate": str(gate)}, created_by=1)
    wait_until(begun(gate))
    order_worker(conn, id_of(process), "pause")
    process.wait_for_event("worker.paused")
    gate.touch()
    assert wait_until(ended(conn, running))["status"] == "success"
    waiting = [tasks.create(conn, "echo", n, created_by=1) for n in range(3)]
    other = worker(processes, "--types", "gated", settings=here)  # something else to wait for, meanwhile
    last = tasks.create(conn, "gated", {"gate": str(gate)}, created_by=1)
    assert wait_until(ended(conn, last))["worker"] == id_of(other)
    assert statuses(conn, waiting) == ["fresh"] * 3
    order_worker(conn, id_of(process), "work")
    process.wait_for_event("worker.resumed")
    wait_until(lambda: statuses(conn, waiting) == ["success"] * 3)


def test_a_drained_worker_finishes_what_runs_and_exits_with_success(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    here = database.settings(poll=600, grace=0)
    process = worker(processes, "--types", "gated", "--concurrency", "2", settings=here)
    gates = [tmp_path / f"gate{n}" for n in range(3)]
    ids = [tasks.create(conn, "gated", {"gate": str(gate)}, created_by=1) for gate in gates]
    # Two of them: one that came unheard just before the worker slept may begin after those that it heard of.
    wait_until(lambda: sum(begun(gate)() for gate in gates) == 2)
    first, second = (n for n, gate in enumerate(gates) if begun(gate)())
    order_worker(conn, id_of(process), "drain")
    process.wait_for_event("worker.draining")
    gates[first].touch()
    wait_until(ended(conn, ids[first]))
    assert process.popen.poll() is None
    gates[second].touch()
    assert process.wait() == 0
    assert sorted(statuses(conn, ids)) == ["fresh", "success", "success"]
    assert conn.execute("select count(*) from workers").fetchone() == (0,)


def test_an_idle_worker_drains_at_once(database: Database, processes: Processes, wait_until: Wait) -> None:
    conn = database.connect()
    process = worker(processes, "--types", "echo", settings=database.settings(poll=600))
    wait_until(sleeping(conn))
    order_worker(conn, id_of(process), "drain")
    assert process.wait() == 0


def test_a_paused_worker_gives_back_what_has_not_begun(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    register(conn, "mostly_short")
    process = worker(processes, "--types", "mostly_short", "--concurrency", "1", settings=database.settings(poll=600))
    tasks.create_many(conn, "mostly_short", [None] * 2000, created_by=1)  # from now on it claims ahead
    wait_until(lambda: tasks.find(conn, status=["success"]).total == 2000)
    gate = tmp_path / "gate"
    long, *short = tasks.create_many(conn, "mostly_short", [{"gate": str(gate)}] + [None] * 50, created_by=1)
    wait_until(begun(gate))
    order_worker(conn, id_of(process), "pause")
    process.wait_for_event("worker.paused")
    wait_until(lambda: statuses(conn, short) == ["fresh"] * 50)
    assert statuses(conn, [long]) == ["started"]
    gate.touch()
    wait_until(ended(conn, long))


def test_a_paused_worker_that_loses_its_lease_is_paused_under_its_new_id(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    process = worker(processes, "--types", "echo", settings=database.settings(poll=0.1))
    first = id_of(process)
    order_worker(conn, first, "pause")
    process.wait_for_event("worker.paused")
    conn.execute("update workers set lease_expires_at = '-infinity', lost_at = now() where id = %s", (first,))
    wait_until(lambda: id_of(process) != first)
    row = wait_until(
        lambda: conn.execute("select orders from workers where lost_at is null and orders <> 'work'").fetchone()
    )
    assert row == ("pause",)


@pytest.mark.parametrize("orders", ["drain", "work"])
def test_what_a_worker_was_told_while_it_stood_still_holds_under_its_new_id(
    database: Database, processes: Processes, wait_until: Wait, orders: Any
) -> None:
    conn = database.connect()
    register(conn, "echo")
    process = worker(processes, "--types", "echo", settings=database.settings(poll=0.1))
    first = id_of(process)
    order_worker(conn, first, "pause")
    process.wait_for_event("worker.paused")
    process.popen.send_signal(signal.SIGSTOP)
    order_worker(conn, first, orders)
    conn.execute("update workers set lease_expires_at = '-infinity', lost_at = now() where id = %s", (first,))
    process.popen.send_signal(signal.SIGCONT)
    process.wait_for_event("worker.lost")
    if orders == "drain":
        assert process.wait() == 0
    else:
        id = tasks.create(conn, "echo", created_by=1)
        assert wait_until(ended(conn, id))["worker"] == id_of(process) != first


def test_a_worker_for_targeted_tasks_only_takes_what_names_its_node(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    register(conn, "echo")
    free = tasks.create(conn, "echo", created_by=1)
    worker(processes, "--types", "echo", "--only-targeted", "--no-schedules", settings=database.settings(node="here"))
    mine = tasks.create(conn, "echo", created_by=1, node="here")
    assert wait_until(ended(conn, mine))["status"] == "success"
    assert statuses(conn, [free]) == ["fresh"]
    assert conn.execute("select only_targeted, schedules from workers").fetchone() == (True, False)


@pytest.mark.parametrize("how", [(), ("--no-listen",)], ids=["listening", "deaf"])
@pytest.mark.parametrize("type", ["gated", "gated_async", "gated_process"])
def test_a_started_task_that_is_cancelled_stops_long_before_the_next_heartbeat(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path, type: str, how: tuple[str, ...]
) -> None:
    conn = database.connect()
    here = database.settings(poll=600, lease=600.0, heartbeat=150.0)
    process = worker(processes, *ATTEMPTS, "--types", type, *how, settings=here)
    gate = tmp_path / "gate"
    id = tasks.create(conn, type, {"gate": str(gate), "heeds": True}, created_by=1)
    wait_until(begun(gate))
    conn.execute("select cancel_task(%s)", (id,))
    row = wait_until(ended(conn, id))
    assert (row["status"], row["worker"], row["failure_count"]) == ("cancelled", id_of(process), 0)


def test_a_cancel_whose_notification_was_lost_is_heard_of_at_the_next_heartbeat(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    worker(processes, "--types", "gated", settings=database.settings(poll=600))
    gate = tmp_path / "gate"
    id = tasks.create(conn, "gated", {"gate": str(gate), "heeds": True}, created_by=1)
    wait_until(begun(gate))
    conn.execute("update tasks set cancel_requested_at = now() where id = %s", (id,))
    assert wait_until(ended(conn, id))["status"] == "cancelled"
