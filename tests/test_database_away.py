"""Postgres goes away and comes back: stopped, killed, or cut off from one worker. What runs, runs on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pgfleet import tasks
from tests.support.database import Database
from tests.support.following import begun, ended
from tests.support.processes import Processes
from tests.support.proxy import Proxy
from tests.support.workers import worker

Wait = Callable[..., Any]


def test_postgres_may_stop_and_come_back(
    own_postgres: Any, away: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    here = away.settings(poll=600, lease=10.0)
    conn = away.connect()
    process = worker(processes, "--types", "gated,echo", settings=here)
    gate = tmp_path / "gate"
    held = tasks.create(conn, "gated", {"gate": str(gate)}, created_by=1)
    wait_until(begun(gate))
    conn.close()
    own_postgres.stop()
    process.wait_for_event("database.away")
    gate.touch()
    process.wait_for_event("settle.waiting")
    own_postgres.start()
    process.wait_for_event("database.back")
    conn = away.connect()
    row = wait_until(ended(conn, held))
    assert (row["status"], row["attempt"]) == ("success", 1)
    assert wait_until(ended(conn, tasks.create(conn, "echo", created_by=1)))["status"] == "success"
    assert process.stop() == 0


def test_postgres_may_be_killed_and_be_away_for_longer_than_a_lease_and_no_task_is_touched(
    own_postgres: Any, away: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    here = away.settings(lease=3.0, heartbeat=0.4)
    conn = away.connect()
    fleet = [worker(processes, "--types", "gated", "--concurrency", "1", settings=here) for _ in range(3)]
    gates = [tmp_path / f"gate{n}" for n in range(3)]
    ids = [tasks.create(conn, "gated", {"gate": str(gate)}, created_by=1) for gate in gates]
    for gate in gates:
        wait_until(begun(gate))
    # A crash may lose a claim, whose commit doesn't wait for the disk; a commit that does takes it along.
    conn.execute("create table flushed ()")
    conn.close()
    os.kill(own_postgres.pid, signal.SIGKILL)
    for process in fleet:
        process.wait_for_event("database.away")
    gates[0].touch()  # done while there is nobody to tell
    since = time.monotonic()
    wait_until(lambda: time.monotonic() - since > 1.5 * here.lease)
    own_postgres.stop()
    own_postgres.start()
    conn = away.connect()
    assert wait_until(ended(conn, ids[0]))["status"] == "success"
    for process in fleet:
        process.wait_for_event("database.back")
    back = time.monotonic()
    wait_until(lambda: time.monotonic() - back > 1.5 * here.lease)  # whoever would be rescued would be by now
    for gate in gates:
        gate.touch()
    for id in ids:
        row = wait_until(ended(conn, id))
        assert (row["status"], row["attempt"], row["crash_count"]) == ("success", 1, 0)
    for process in fleet:
        assert process.stop() == 0
        assert not process.events("worker.lost")


def test_an_outcome_that_waited_for_postgres_is_refused_when_the_task_has_gone_to_another(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    gate, other_gate = tmp_path / "gate", tmp_path / "other"
    with Proxy.before(database.url) as proxy:
        far = database.settings(database_url=proxy.url(database.url), lease=2.0, heartbeat=0.3)
        cut_off = worker(processes, "--nickname", "far", "--types", "gated", settings=far)
        id = tasks.create(conn, "gated", {"gate": str(gate)}, created_by=1)
        wait_until(begun(gate))
        proxy.refuse()
        proxy.cut()
        gate.touch()
        cut_off.wait_for_event("settle.waiting")
        # It has run to its end over there, and nobody knows. Here it begins again, at another gate.
        conn.execute("update tasks set data = %s where id = %s", (f'{{"gate": "{other_gate}"}}', id))
        near = database.settings(lease=60.0, heartbeat=0.3)
        worker(processes, "--nickname", "near", "--types", "gated", settings=near)
        wait_until(begun(other_gate))
        proxy.heal()
        assert cut_off.wait_for_event("task.lost")["task"] == id
        assert tasks.get(conn, id)["status"] == "started"
        wait_until(lambda: len(cut_off.events("worker.registered")) >= 2)
        other_gate.touch()
        row = wait_until(ended(conn, id))
        assert (row["status"], row["attempt"]) == ("success", 2)
        assert row["worker"].startswith("near:")
        assert cut_off.stop() == 0


def test_a_worker_that_lost_its_lease_stops_its_handlers(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    gate = tmp_path / "gate"
    process = worker(processes, "--handlers", "tests.support.attempts", "--types", "gated_process")
    tasks.create(conn, "gated_process", {"gate": str(gate)}, created_by=1)
    wait_until(begun(gate))
    conn.execute("update workers set lost_at = now(), lease_expires_at = now() - interval '1 second'")
    wait_until(lambda: Path(f"{gate}.cancelled").exists())
    process.wait_for_event("worker.lost")
    wait_until(lambda: len(process.events("worker.registered")) >= 2)
