"""How a worker ends, on purpose or not, and what becomes of what it held."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pgfleet import tasks
from tests.support.database import Database
from tests.support.following import begun, ended, register
from tests.support.processes import Processes
from tests.support.workers import worker

Wait = Callable[..., Any]


def test_sigterm_lets_running_tasks_finish_and_gives_the_rest_back(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    register(conn, "gated")
    gates = [tmp_path / f"gate{n}" for n in range(3)]
    ids = [tasks.create(conn, "gated", {"gate": str(gate)}, created_by=1) for gate in gates]
    process = worker(processes, "--types", "gated", "--concurrency", "2")
    wait_until(lambda: begun(gates[0])() and begun(gates[1])())
    process.signal(signal.SIGTERM)
    process.wait_for_event("worker.stopping")
    gates[0].touch()
    gates[1].touch()
    assert process.wait() == 0
    assert [tasks.get(conn, id)["status"] for id in ids] == ["success", "success", "fresh"]
    assert conn.execute("select count(*) from workers").fetchone() == (0,)


def test_what_outlasts_the_grace_period_is_given_back_without_a_failure(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    process = worker(processes, "--types", "gated,gated_async", settings=database.settings(grace=0.3))
    for type, heeds in (("gated", False), ("gated", True), ("gated_async", False)):
        gate = tmp_path / f"{type}-{heeds}"
        tasks.create(conn, type, {"gate": str(gate), "heeds": heeds}, created_by=1)
        wait_until(begun(gate))
    assert process.stop() == 0
    for row in tasks.find(conn).rows:
        assert (row["status"], row["failure_count"], row["crash_count"], row["worker"]) == ("fresh", 0, 0, None)


def test_a_killed_workers_tasks_are_rescued_by_another(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    gate = tmp_path / "gate"
    first = worker(processes, "--nickname", "first", "--types", "gated")
    id = tasks.create(conn, "gated", {"gate": str(gate)}, created_by=1)
    wait_until(begun(gate))
    worker(processes, "--nickname", "second", "--types", "gated")
    first.kill()
    gate.touch()
    row = wait_until(ended(conn, id))
    assert (row["status"], row["attempt"], row["failure_count"], row["crash_count"]) == ("success", 2, 0, 1)
    assert row["worker"].startswith("second:")


def test_more_than_one_statement_can_rescue_is_rescued_in_steps(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    register(conn, "gated")
    conn.execute("select register_worker('dead', 'elsewhere', '{gated}', 200, '1 hour', 'test')")
    conn.execute("select create_tasks('gated', array_fill(null::text, '{120}'), 0)")
    conn.execute("select claim_tasks('dead', '{gated}', 120)")
    conn.execute("update workers set lease_expires_at = now() - interval '1 second'")
    # 20 ms a task: all at once take 2.4 s, and a statement of the heart's has a beat, 0.4 s.
    conn.execute(
        "create function slow() returns trigger language plpgsql as 'begin perform pg_sleep(0.02); return null; end';"
        "create trigger slow after insert on task_attempts for each row execute function slow()"
    )
    rescuer = worker(processes, "--types", "echo", settings=database.settings(lease=3.0, heartbeat=0.4))
    held = "select count(*) from tasks where status = 'started'"
    wait_until(lambda: conn.execute(held).fetchone() == (0,), timeout=60)
    assert not rescuer.events("worker.lost")


def test_a_worker_that_slept_through_its_lease_changes_nothing_and_registers_anew(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    gate = tmp_path / "gate"
    zombie = worker(processes, "--nickname", "zombie", "--types", "gated")
    id = tasks.create(conn, "gated", {"gate": str(gate)}, created_by=1)
    wait_until(begun(gate))
    zombie.signal(signal.SIGSTOP)
    worker(processes, "--nickname", "winner", "--types", "gated")
    wait_until(lambda: tasks.get(conn, id)["attempt"] == 2)
    zombie.signal(signal.SIGCONT)
    zombie.wait_for_event("worker.lost")
    gate.touch()
    row = wait_until(ended(conn, id))
    zombie.wait_for_event("task.lost")
    assert tasks.get(conn, id) == row
    assert row["worker"].startswith("winner:")
    wait_until(lambda: len({event["worker"] for event in zombie.events("worker.registered")}) == 2)


def test_a_long_task_of_a_live_worker_is_never_rescued(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    gate = tmp_path / "gate"
    quick = database.settings(lease=2.5, heartbeat=0.2)
    worker(processes, "--types", "gated", settings=quick)
    worker(processes, "--types", "gated", settings=quick)
    id = tasks.create(conn, "gated", {"gate": str(gate)}, created_by=1)
    wait_until(begun(gate))
    started = tasks.get(conn, id)["started_at"]
    wait_until(lambda: conn.execute("select now() - %s > interval '6 seconds'", (started,)).fetchone() == (True,))
    gate.touch()
    row = wait_until(ended(conn, id))
    assert (row["status"], row["attempt"]) == ("success", 1)


def test_a_worker_whose_connections_are_cut_goes_on(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    process = worker(processes, "--types", "gated,echo", settings=database.settings(poll=600))
    gate = tmp_path / "gate"
    running = tasks.create(conn, "gated", {"gate": str(gate)}, created_by=1)
    wait_until(begun(gate))
    conn.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where application_name like 'pgfleet %' and application_name <> 'pgfleet tests' and datname = current_database()"
    )
    process.wait_for_event("database.back")
    gate.touch()
    assert wait_until(ended(conn, tasks.create(conn, "echo", created_by=1)))["status"] == "success"
    row = wait_until(ended(conn, running))
    assert (row["status"], row["attempt"]) == ("success", 1)


def test_a_handlers_own_thread_that_raises_is_logged_and_ends_nothing_else(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    process = worker(processes, "--handlers", "tests.support.attempts", "--types", "leaves_a_thread")
    id = tasks.create(conn, "leaves_a_thread", created_by=1)
    row = wait_until(ended(conn, id))
    assert (row["status"], row["attempt"]) == ("success", 1)
    told = process.wait_for_event("thread.failed")
    assert (told["thread"], "nobody catches this" in told["problem"]) == ("left", True)
    assert process.stop() == 0
