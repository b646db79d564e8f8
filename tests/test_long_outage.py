"""Postgres is away for more than two leases, in the proportions of the defaults: fleet and API outlive it, and nothing is lost.

Shorter ones, and one side of it at a time: test_database_away.py, test_api_away.py, test_half_open.py.
"""

from __future__ import annotations

import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pgfleet import migrate, tasks
from pgfleet.settings import Settings
from tests.support.database import Database
from tests.support.following import begun, ended
from tests.support.processes import Process, Processes
from tests.support.proxy import Proxy
from tests.support.workers import id_of, worker

Wait = Callable[..., Any]
KINDS = ("gated", "gated_async", "gated_failure")


@pytest.fixture
def away(own_postgres: Any) -> Iterator[Database]:
    """A migrated database on a Postgres of this test's own."""
    database = Database(own_postgres.url())
    migrate.migrate(database.settings())
    yield database
    database.close()


def asking(api: Process, token: str) -> Callable[[], dict[str, tuple[int, bool]]]:
    """What the API answers: (status, is there a Retry-After?), by path."""

    def ask(path: str) -> tuple[int, bool]:
        request = urllib.request.Request(api.url + path, headers={"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(request, timeout=40) as answer:
                return answer.status, False
        except urllib.error.HTTPError as error:
            with error:
                return error.code, bool(error.headers["Retry-After"])

    return lambda: {path: ask(path) for path in ("/health", "/ready", "/v1/tasks")}


def test_fleet_and_api_outlive_two_leases_without_postgres_and_what_waited_is_delivered_still_fenced(
    own_postgres: Any,
    away: Database,
    processes: Processes,
    wait_until: Wait,
    tmp_path: Path,
    reader_token: Callable[..., str],
) -> None:
    defaults = Settings()
    lease = 4.0
    here = away.settings(lease=lease, heartbeat=lease * defaults.heartbeat / defaults.lease)
    conn = away.connect()
    answers = asking(processes.api(settings=here), reader_token(1))
    up = {"/health": (200, False), "/ready": (200, False), "/v1/tasks": (200, False)}
    assert answers() == up
    with Proxy.before(away.url) as proxy:
        there = away.settings(
            lease=here.lease, heartbeat=here.heartbeat, database_url=proxy.url(away.url), nickname="far"
        )
        far = worker(processes, "--types", ",".join(KINDS), "--concurrency", "1", settings=there)
        far_gate = tmp_path / "far"
        lost = tasks.create(conn, "gated", {"gate": str(far_gate)}, created_by=1)
        wait_until(begun(far_gate))
        fleet = [worker(processes, "--types", ",".join(KINDS), "--concurrency", "3", settings=here) for _ in range(2)]
        held: dict[int, str] = {}
        gates = [far_gate]
        for kind in (*KINDS, *KINDS):
            gates.append(tmp_path / f"gate{len(gates)}")
            held[tasks.create(conn, kind, {"gate": str(gates[-1])}, created_by=1)] = kind
        for gate in gates:
            wait_until(begun(gate))
        conn.execute("create table flushed ()")  # a crash may lose a claim that no other commit took to the disk
        conn.close()
        os.kill(own_postgres.pid, signal.SIGKILL)
        since = time.monotonic()
        for process in (far, *fleet):
            process.wait_for_event("database.away")
        for gate in gates:
            gate.touch()
        for process in (far, *fleet):
            process.wait_for_event("settle.waiting")
        proxy.refuse()
        while time.monotonic() - since < 2.2 * lease:
            assert answers() == {"/health": (200, False), "/ready": (503, True), "/v1/tasks": (503, True)}
            time.sleep(0.2)  # as a reader's browser would ask
        own_postgres.stop()
        own_postgres.start()

        conn = away.connect()
        for id, kind in held.items():
            row = wait_until(ended(conn, id))
            status = "failure" if kind == "gated_failure" else "success"
            assert (row["status"], row["attempt"], row["crash_count"]) == (status, 1, 0)
        wait_until(lambda: answers() == up)
        # Whoever is without Postgres still is lost, in the end.
        row = wait_until(ended(conn, lost))
        assert (row["status"], row["attempt"], row["crash_count"]) == ("success", 2, 1)
        assert row["worker"] in [id_of(process) for process in fleet]
        proxy.heal()
        assert far.wait_for_event("task.lost")["task"] == lost
        wait_until(lambda: len(far.events("worker.registered")) == 2)
        assert tasks.get(conn, lost) == row
        for process in fleet:
            assert not process.events("worker.lost")
        for process in (far, *fleet):
            assert process.stop() == 0
