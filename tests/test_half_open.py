"""Links that bring no answer any more and tell nobody: a proxy falls silent, with TCP itself in good health.

With the settings' short times; with the defaults it is 15 s for a statement under way, 10 s more for an idle listener.
What TCP's own timers notice is in test_networks.py.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgfleet import db, tasks
from pgfleet.errors import DatabaseAway
from pgfleet.settings import Settings
from tests.support.database import Database
from tests.support.following import begun, ended, register
from tests.support.processes import Processes
from tests.support.proxy import Proxy
from tests.support.workers import sleeping, worker

Wait = Callable[..., Any]
#: Seconds. Far more than the 1 s that the settings here allow, far less than for ever (and the heartbeats' 600).
NOTICED = 40.0


@pytest.fixture
def proxy(database: Database) -> Iterator[Proxy]:
    with Proxy.before(database.url) as made:
        yield made


@pytest.fixture
def through(database: Database, proxy: Proxy, export_dir: Path) -> Settings:
    """Settings by way of the proxy, with a second's patience."""
    return database.settings(
        database_url=proxy.url(database.url),
        export_dir=export_dir,
        answer_timeout=1.0,
        database_timeout=2.0,
        lease=600.0,
        heartbeat=0.5,
        poll=600.0,
    )


def test_a_statement_without_an_answer_ends_and_its_connection_is_closed(through: Settings, proxy: Proxy) -> None:
    conn = db.connect(through, "pgfleet test", engine=True)
    assert conn.execute("select 1").fetchone() == (1,)
    proxy.pause()
    began = time.monotonic()
    with pytest.raises(DatabaseAway), db.ours():
        conn.execute("select 1")
    assert 0.9 < time.monotonic() - began < NOTICED
    assert conn.closed


def test_a_statement_that_waits_for_a_lock_is_ended_by_postgres_and_costs_no_connection(
    through: Settings, database: Database
) -> None:
    blocker = database.connect(autocommit=False)
    blocker.execute("lock table tasks")
    with db.connect(through, "pgfleet test", engine=True) as conn:
        with pytest.raises(psycopg.errors.QueryCanceled):
            conn.execute("select count(*) from tasks")
        assert conn.execute("select 1").fetchone() == (1,)
    blocker.rollback()


@pytest.mark.parametrize("lost", ["pgfleet listen", "pgfleet heartbeat"])
def test_an_idle_worker_notices_a_link_that_went_silent(
    database: Database, processes: Processes, wait_until: Wait, through: Settings, proxy: Proxy, lost: str
) -> None:
    conn = database.connect()
    process = worker(processes, "--types", "echo", settings=through)
    wait_until(sleeping(conn))
    (link,) = wait_until(lambda: proxy.links(lost))
    link.lose()
    event = "heartbeat.missed" if lost == "pgfleet heartbeat" else "database.away"
    process.wait_for_event(event, timeout=NOTICED)
    wait_until(lambda: any(other is not link for other in proxy.links(lost)))
    wait_until(sleeping(conn))
    assert wait_until(ended(conn, tasks.create(conn, "echo", created_by=1)))["status"] == "success"
    assert not process.events("worker.lost")


@pytest.mark.parametrize("lost", ["pgfleet claim", "pgfleet settle"])
def test_a_worker_at_work_notices_a_link_that_went_silent(
    database: Database,
    processes: Processes,
    wait_until: Wait,
    through: Settings,
    proxy: Proxy,
    lost: str,
    tmp_path: Path,
) -> None:
    conn = database.connect()
    register(conn, "echo", "gated")
    process = worker(processes, "--types", "echo,gated", settings=through)
    wait_until(ended(conn, tasks.create(conn, "echo", created_by=1)))  # all its connections are in use
    gate = tmp_path / "gate"
    held = tasks.create(conn, "gated", {"gate": str(gate)}, created_by=1)
    wait_until(begun(gate))
    for link in proxy.links(lost):
        link.lose()
    gate.touch()
    row = wait_until(ended(conn, held), timeout=NOTICED)
    assert (row["status"], row["attempt"]) == ("success", 1)
    row = wait_until(ended(conn, tasks.create(conn, "echo", created_by=1)), timeout=NOTICED)
    assert (row["status"], row["failure_count"], row["crash_count"]) == ("success", 0, 0)
    assert process.stop() == 0


def test_a_settle_whose_answer_was_lost_is_said_again_and_counts_once(
    database: Database, processes: Processes, wait_until: Wait, through: Settings, proxy: Proxy, tmp_path: Path
) -> None:
    conn = database.connect()
    process = worker(processes, "--types", "gated,echo", settings=through)
    wait_until(ended(conn, tasks.create(conn, "echo", created_by=1)))
    gate = tmp_path / "gate"
    id = tasks.create(conn, "gated", {"gate": str(gate)}, created_by=1)
    wait_until(begun(gate))
    for link in proxy.links("pgfleet settle"):
        link.pause("down")  # it arrives; the answer doesn't
    gate.touch()
    row = wait_until(ended(conn, id))
    process.wait_for_event("settle.waiting", timeout=NOTICED)
    assert wait_until(ended(conn, tasks.create(conn, "echo", created_by=1)), timeout=NOTICED)["status"] == "success"
    assert tasks.get(conn, id) == row
    assert process.stop() == 0


def test_the_api_without_answers_says_503_at_once_and_is_red_until_they_come_again(
    processes: Processes, wait_until: Wait, through: Settings, proxy: Proxy, reader_token: Callable[..., str]
) -> None:
    api = processes.api(settings=through)

    def ask(path: str) -> tuple[int, str | None, float]:
        request = urllib.request.Request(api.url + path, headers={"Authorization": f"Bearer {reader_token(1)}"})
        began = time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=NOTICED) as answer:
                status, after = answer.status, None
        except urllib.error.HTTPError as error:
            with error:
                status, after = error.code, error.headers["Retry-After"]
        return status, after, time.monotonic() - began

    assert [ask(path)[0] for path in ("/ready", "/v1/tasks")] == [200, 200]
    proxy.pause()
    for path in ("/v1/tasks", "/ready", "/v1/tasks"):
        status, after, seconds = ask(path)
        assert (path, status, after is not None) == (path, 503, True)
        assert seconds < NOTICED
    assert ask("/health")[0] == 200
    proxy.heal()
    wait_until(lambda: [ask(path)[0] for path in ("/ready", "/v1/tasks")] == [200, 200])
