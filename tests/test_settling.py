"""An outcome that can't be recorded for now waits alone: what a worker has to say of its other tasks is recorded meanwhile."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgfleet import tasks
from tests.support.database import Database
from tests.support.fleet import Connection
from tests.support.following import ended, register
from tests.support.processes import Processes
from tests.support.workers import worker

Wait = Callable[..., Any]

FORBIDDEN = """
create function forbidden() returns trigger language plpgsql as $$
begin
    raise exception 'permission denied for this one' using errcode = 'insufficient_privilege';
end $$;
create trigger forbid before update of status on tasks for each row
    when (new.status = 'success' and new.data like '%forbidden%') execute function forbidden();
"""


@pytest.fixture
def conn(database: Database) -> Connection:
    conn = database.connect()
    register(conn, "gated")
    return conn


def test_an_outcome_that_postgres_refuses_for_now_keeps_no_other_back(
    database: Database, conn: Connection, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn.execute(FORBIDDEN)
    process = worker(processes, "--types", "gated", settings=database.settings(lease=30.0))
    gates = [tmp_path / "forbidden", tmp_path / "other", tmp_path / "later"]
    refused, other, later = [tasks.create(conn, "gated", {"gate": str(gate)}, created_by=1) for gate in gates]
    gates[0].touch()
    process.wait_for_event("settle.waiting")
    gates[1].touch()
    assert wait_until(ended(conn, other))["status"] == "success"
    gates[2].touch()
    assert wait_until(ended(conn, later))["status"] == "success"
    assert tasks.get(conn, refused)["status"] == "started"
    conn.execute("drop trigger forbid on tasks")
    row = wait_until(ended(conn, refused))
    assert (row["status"], row["attempt"]) == ("success", 1)
    assert process.stop() == 0


def test_a_row_that_somebody_keeps_locked_keeps_no_other_back(
    database: Database, conn: Connection, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    here = database.settings(lease=30.0, answer_timeout=1.0)
    process = worker(processes, "--types", "gated", settings=here)
    gate = tmp_path / "gate"
    first, *others = [tasks.create(conn, "gated", {"gate": str(gate)}, created_by=1) for _ in range(5)]
    wait_until(lambda: tasks.find(conn, status=["started"]).total == 5)
    with psycopg.connect(database.url) as holder:
        holder.execute("select from tasks where id = %s for update", (first,))
        gate.touch()  # all five end at once
        for other in others:
            assert wait_until(ended(conn, other))["status"] == "success"
        process.wait_for_event("settle.waiting")
        assert tasks.get(conn, first)["status"] == "started"
    assert wait_until(ended(conn, first))["status"] == "success"
    assert process.stop() == 0


def test_a_worker_that_ends_still_delivers_what_was_refused_for_a_while(
    database: Database, conn: Connection, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn.execute(FORBIDDEN)
    process = worker(processes, "--types", "gated", settings=database.settings(lease=30.0))
    gate = tmp_path / "forbidden"
    gate.touch()
    refused = tasks.create(conn, "gated", {"gate": str(gate)}, created_by=1)
    process.wait_for_event("settle.waiting")
    process.signal(signal.SIGTERM)
    process.wait_for_event("worker.stopping")
    conn.execute("drop trigger forbid on tasks")
    assert process.wait() == 0
    assert tasks.get(conn, refused)["status"] == "success"
