"""A handler that blocks its worker's event loop keeps no task from another worker, and none is left unseen for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pgfleet import tasks
from tests.support.database import Database
from tests.support.fleet import Connection, value
from tests.support.following import begun, ended, register, statuses
from tests.support.processes import Processes
from tests.support.workers import worker

Wait = Callable[..., Any]

RETURNED = "select count(*) from task_attempts where status = 'released'"


def measured(conn: Connection, wait_until: Wait, *types: str) -> None:
    """Have the worker do so many tasks of each that it knows them to be short."""
    for type in types:
        tasks.create_many(conn, type, [None] * 500, created_by=1)
    wait_until(lambda: tasks.find(conn, status=["success"]).total == 500 * len(types))


def test_tasks_that_a_blocked_event_loop_can_not_begin_go_to_another_worker(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn, gate = database.connect(), tmp_path / "gate"
    here = database.settings(poll=600)
    worker(processes, "--nickname", "a", "--types", "blocks_async", "--concurrency", "4", settings=here)
    measured(conn, wait_until, "blocks_async")
    long = tasks.create(conn, "blocks_async", {"gate": str(gate)}, created_by=1)
    wait_until(begun(gate))
    worker(processes, "--nickname", "b", "--types", "blocks_async", "--concurrency", "4", settings=here)
    short = [tasks.create(conn, "blocks_async", created_by=1) for _ in range(60)]
    for id in short:
        assert wait_until(ended(conn, id))["worker"].startswith("b:")
    assert tasks.get(conn, long)["status"] == "started"
    gate.touch()
    assert wait_until(ended(conn, long))["attempt"] == 1


def test_behind_a_blocked_event_loop_nothing_is_claimed_again_and_what_came_meanwhile_begins_when_it_goes_on(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn, gate, then = database.connect(), tmp_path / "gate", tmp_path / "then"
    here = database.settings(poll=600)
    worker(processes, "--types", "blocks_async,echo", "--concurrency", "10", settings=here)
    measured(conn, wait_until, "blocks_async")
    blocking = tasks.create(conn, "blocks_async", {"gate": str(gate), "then": str(then)}, created_by=1)
    wait_until(begun(gate))
    ids = [tasks.create(conn, "blocks_async", created_by=1) for _ in range(40)]
    ids += tasks.create_many(conn, "blocks_async", [None] * 1000, created_by=1)
    for n in range(100):  # its threads are free: plain tasks go on
        wait_until(ended(conn, tasks.create(conn, "echo", n, created_by=1)))
    wait_until(lambda: set(statuses(conn, ids)) == {"fresh"})
    returned = "select count(*), count(distinct task_id) from task_attempts where status = 'released'"
    of_these, tasks_of_these = conn.execute(returned).fetchone() or (0, 0)
    assert of_these == tasks_of_these
    gate.touch()
    wait_until(lambda: set(statuses(conn, ids)) == {"success"})
    assert tasks.get(conn, blocking)["status"] == "started"
    then.touch()
    assert wait_until(ended(conn, blocking))["attempt"] == 1


def test_what_came_in_many_priorities_while_the_loop_was_blocked_is_all_found(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    here = database.settings(poll=600)
    worker(processes, "--types", "blocks_async,echo_async,echo", "--concurrency", "10", settings=here)
    measured(conn, wait_until, "echo_async", "echo")
    for n in range(3):
        gate, before = tmp_path / f"gate{n}", value(conn, RETURNED)
        ids = [tasks.create(conn, "blocks_async", {"gate": str(gate)}, created_by=1)]
        wait_until(begun(gate))
        ids.append(tasks.create(conn, "echo_async", created_by=1))
        wait_until(lambda before=before: value(conn, RETURNED) > before)
        with conn.transaction():
            for priority in range(4):
                ids += tasks.create_many(conn, "echo_async", [None] * 100, created_by=1, priority=priority)
        gate.touch()
        wait_until(lambda ids=ids: set(statuses(conn, ids)) == {"success"})


def test_an_event_loop_that_is_busy_with_many_is_not_blocked(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn, gate = database.connect(), tmp_path / "gate"
    register(conn, "steps_async", "echo_async", "echo")
    here = database.settings(poll=600)
    worker(processes, "--types", "steps_async,echo_async,echo", "--concurrency", "100", settings=here)
    busy = tasks.create_many(conn, "steps_async", [{"gate": str(gate)}] * 50, created_by=1)
    wait_until(lambda: set(statuses(conn, busy)) == {"started"})
    ids = tasks.create_many(conn, "echo_async", range(40), created_by=1)
    wait_until(lambda: set(statuses(conn, ids)) == {"success"})
    assert value(conn, RETURNED) == 0
    gate.touch()
    wait_until(lambda: set(statuses(conn, busy)) == {"success"})
