"""Limits and placement on real workers that nothing but a notification wakes: their poll is ten minutes."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgfleet import tasks
from tests.support.database import Database
from tests.support.fleet import column, value
from tests.support.processes import Process, Processes

Wait = Callable[..., Any]
Connection = psycopg.Connection[Any]
LONG = 60.0


@pytest.fixture
def start(database: Database, processes: Processes) -> Callable[..., Process]:
    """Starts a worker on the node given."""

    def start(node: str, *types: str) -> Process:
        settings = database.settings(poll=600, node=node)
        arguments = ["--handlers", "tests.support.handlers", "--concurrency", "4", "--types", ",".join(types)]
        process = processes.worker(*arguments, settings=settings)
        process.wait_for_event("worker.registered")
        return process

    return start


def gated(conn: Connection, folder: Path, n: int) -> dict[int, Path]:
    """Tasks that wait at a gate of their own each."""
    gates = [folder / f"gate{i}" for i in range(n)]
    return {tasks.create(conn, "gated", {"gate": str(gate)}, created_by=1): gate for gate in gates}


def begun(gates: dict[int, Path]) -> list[int]:
    return [id for id, gate in gates.items() if Path(f"{gate}.begun").exists()]


def all_asleep(conn: Connection) -> bool:
    return bool(value(conn, "select bool_and(sleeping) from workers where lost_at is null"))


def test_as_many_run_as_may_and_the_next_begins_whenever_one_ends_though_all_sleep(
    database: Database, start: Callable[..., Process], wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    conn.execute("select register_type('gated', max_running => 2)")
    for node in ("a", "b"):
        start(node, "gated", "echo")
    gates = gated(conn, tmp_path, 6)
    wait_until(lambda: len(begun(gates)) == 2, LONG)
    # Full types with a backlog hide nothing of another type, and let workers sleep.
    others = [tasks.create(conn, "echo", n, created_by=1) for n in range(20)]
    wait_until(lambda: tasks.find(conn, type=["echo"], status=["success"]).total == len(others), LONG)
    wait_until(lambda: all_asleep(conn), LONG)
    for ended in range(1, 5):
        id = column(conn, "select id from tasks where type = 'gated' and status = 'started' order by id")[0]
        gates[id].touch()
        wait_until(lambda ended=ended: len(begun(gates)) == 2 + ended, LONG)
        assert value(conn, "select count(*) from tasks where type = 'gated' and status = 'started'") <= 2
        wait_until(lambda: all_asleep(conn), LONG)
    for gate in gates.values():
        gate.touch()
    wait_until(lambda: tasks.find(conn, type=["gated"], status=["success"]).total == len(gates), LONG)


def test_a_raised_limit_and_a_killed_holder_let_those_that_wait_begin(
    database: Database, start: Callable[..., Process], wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    conn.execute("select register_type('gated', max_running => 1)")
    first = start("a", "gated")
    gates = gated(conn, tmp_path, 4)
    wait_until(lambda: len(begun(gates)) == 1, LONG)
    start("b", "gated")
    wait_until(lambda: all_asleep(conn), LONG)
    tasks.configure_type(conn, "gated", max_running=3)
    wait_until(lambda: len(begun(gates)) == 3, LONG)
    first.signal(signal.SIGKILL)
    for gate in gates.values():
        gate.touch()
    wait_until(lambda: tasks.find(conn, type=["gated"], status=["success"]).total == len(gates), LONG)


def test_a_backlog_under_a_limit_is_worked_off_and_never_more_than_that_run(
    database: Database, start: Callable[..., Process], wait_until: Wait
) -> None:
    conn = database.connect()
    conn.execute("select register_type('echo_slowly', max_running => 3)")
    conn.execute("create table most (running bigint)")
    # Counted under a lock, so that no two claims miss each other's rows.
    conn.execute(
        "create function count_running() returns trigger language plpgsql as $$ begin"
        " perform pg_advisory_xact_lock(99);"
        " insert into most select count(*) from tasks where type = 'echo_slowly' and status = 'started'; return null; end $$"
    )
    conn.execute(
        "create trigger count_running after update on tasks for each row"
        " when (new.status = 'started' and old.status = 'fresh') execute function count_running()"
    )
    for node in ("a", "b"):
        start(node, "echo_slowly")
    ids = tasks.create_many(conn, "echo_slowly", range(150), created_by=1)
    wait_until(lambda: tasks.find(conn, status=["success"]).total == len(ids), LONG)
    assert value(conn, "select max(running) from most") == 3
    assert value(conn, "select max(attempt) from tasks") == 1


def test_a_task_that_names_a_node_and_one_for_all_nodes_are_done_where_they_belong(
    database: Database, start: Callable[..., Process], wait_until: Wait
) -> None:
    conn = database.connect()
    for node in ("a", "b", "a"):
        start(node, "echo")
    wait_until(lambda: all_asleep(conn), LONG)
    aimed = [tasks.create(conn, "echo", created_by=1, node="b") for _ in range(5)]
    parent = tasks.create_for_all_nodes(conn, "echo", {"clean": True}, created_by=1)
    wait_until(lambda: tasks.find(conn, status=["success"]).total == len(aimed) + 3, LONG)
    query = "select h.node from tasks t join worker_history h on h.id = t.worker where t.id = any (%s)"
    assert set(column(conn, query, aimed)) == {"b"}
    query = "select t.node || h.node from tasks t join worker_history h on h.id = t.worker where t.parent = %s"
    assert sorted(column(conn, query, parent)) == ["aa", "bb"]
    told = json.loads(tasks.get(conn, parent)["result"])["parts"]
    assert {node: part["status"] for node, part in told.items()} == {"a": "success", "b": "success"}
