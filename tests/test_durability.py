"""Postgres is killed with -9 under load: what was acknowledged as created or settled is still there."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import psycopg

from pgfleet import tasks
from tests.support.database import Database
from tests.support.following import register
from tests.support.processes import Processes
from tests.support.workers import worker

Wait = Callable[..., Any]


def test_nothing_created_or_settled_is_lost_when_postgres_is_killed(
    own_postgres: Any, away: Database, processes: Processes, wait_until: Wait
) -> None:
    here = away.settings(lease=30.0, heartbeat=1.0)
    observer = away.connect()
    register(observer, "echo")
    created: list[int] = []

    def create() -> None:
        try:
            with psycopg.connect(away.url, autocommit=True) as conn:
                while True:
                    created.append(tasks.create(conn, "echo", created_by=1))
        except Exception:
            return

    process = worker(processes, "--types", "echo", settings=here)
    creators = [threading.Thread(target=create) for _ in range(3)]
    for creator in creators:
        creator.start()
    wait_until(lambda: tasks.find(observer, status=["success"]).total > 300)
    settled = {row[0] for row in observer.execute("select id from tasks where status = 'success'")}
    os.kill(own_postgres.pid, signal.SIGKILL)
    for creator in creators:
        creator.join()
    process.wait_for_event("database.away")
    own_postgres.stop()
    own_postgres.start()
    observer = away.connect()
    still = {row[0]: row[1] for row in observer.execute("select id, status from tasks")}
    assert set(created) <= set(still)
    assert {still[id] for id in settled} == {"success"}
    wait_until(lambda: tasks.find(observer, status=["success"]).total == len(still), timeout=120)
    again = observer.execute("select count(*) from tasks where failure_count > 0 or crash_count > 0").fetchone()
    assert again == (0,)
