"""Servers that vanish from the network: each on a host of its own, with real links that are cut.

Postgres, the API and two workers, as a fleet is spread over four machines. Where network namespaces are not to be had
these tests are skipped, and say why.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgfleet import migrate, tasks, tokens
from pgfleet.embedded import EmbeddedPostgres
from pgfleet.settings import Settings
from tests.support.database import Database
from tests.support.following import begun, ended
from tests.support.netns import NETWORK, Network, NoNamespaces
from tests.support.processes import Process, Processes
from tests.support.workers import sleeping

Wait = Callable[..., Any]
#: Seconds. What is promised for a half-open connection, and what two busy cores may add.
NOTICED = 30.0
SLACK = 30.0


@dataclass
class Site:
    """The four hosts, and the fleet's settings on them."""

    network: Network
    settings: Settings
    conn: psycopg.Connection[Any]  # past the network
    processes: Processes

    def worker(self, host: str, *arguments: str, **settings: Any) -> Process:
        """A worker on ``host``, registered."""
        here = dataclasses.replace(self.settings, node=host, nickname=host, **settings)
        with self.network[host].inside():
            process = self.processes.worker("--handlers", "tests.support.handlers", *arguments, settings=here)
        process.wait_for_event("worker.registered")
        return process


@pytest.fixture
def site(processes: Processes, export_dir: Path) -> Iterator[Site]:
    try:
        network = Network("postgres", "api", "one", "two")
    except NoNamespaces as error:
        pytest.skip(str(error))
    bin_dir = os.environ.get("PGFLEET_TEST_PG_BIN")
    with network, tempfile.TemporaryDirectory(prefix="pgfleet-test-") as folder:
        Path(folder).chmod(0o711)
        host = network["postgres"]
        postgres = EmbeddedPostgres(
            Path(folder) / "pg", bin_dir=Path(bin_dir) if bin_dir else None, tcp_port=5432,
            options={"listen_addresses": f"127.0.0.1,{host.address}"},
        )  # fmt: skip
        with host.inside():
            postgres.start()
        try:
            with (postgres.data_dir / "pg_hba.conf").open("a") as file:
                file.write(f"host all all {NETWORK}.0/24 scram-sha-256\n")
            database = Database(postgres.url())
            conn = database.connect()
            conn.execute("select pg_reload_conf()")
            settings = database.settings(
                database_url=postgres.tcp_url().replace("127.0.0.1", host.address), export_dir=export_dir
            )
            migrate.migrate(Settings(database_url=postgres.url()))
            yield Site(network, settings, conn, processes)
            database.close()
        finally:
            processes.end()
            postgres.remove()


def test_a_server_that_is_cut_off_loses_its_task_to_another_and_changes_nothing_when_it_is_back(
    site: Site, wait_until: Wait, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    one = site.worker("one", "--types", "gated")
    id = tasks.create(site.conn, "gated", {"gate": str(gate)}, created_by=1)
    wait_until(begun(gate))
    site.worker("two", "--types", "gated")
    site.network["one"].cut()
    wait_until(lambda: tasks.get(site.conn, id)["attempt"] == 2)
    second = tasks.get(site.conn, id)
    assert second["worker"].startswith("two:")
    # From the last heartbeat that came through: the lease, one heartbeat of the rescuer's, and what busy cores add.
    row = site.conn.execute(
        "select extract(epoch from %s - renewed_at)::float8 from workers where id like 'one:%%'", [second["started_at"]]
    ).fetchone()
    assert row is not None
    assert site.settings.lease <= row[0] <= site.settings.lease + site.settings.heartbeat + SLACK
    gate.touch()  # for both: the one that nobody can hear has done the work, too
    before = wait_until(ended(site.conn, id))
    assert (before["status"], before["attempt"], before["crash_count"]) == ("success", 2, 1)
    site.network["one"].join()
    one.wait_for_event("worker.lost", NOTICED + SLACK)
    wait_until(lambda: len(one.events("worker.registered")) >= 2)
    wait_until(lambda: one.events("task.lost"))
    assert tasks.get(site.conn, id) == before


def test_a_server_that_is_back_takes_its_share_again(site: Site, wait_until: Wait) -> None:
    one = site.worker("one", "--types", "echo", poll=600.0)
    site.network["one"].cut()
    time.sleep(site.settings.lease / 2)  # a cut that TCP itself bridges: nothing is lost but time
    id = tasks.create(site.conn, "echo", created_by=1)
    site.network["one"].join()
    assert wait_until(ended(site.conn, id))["status"] == "success"
    assert tasks.get(site.conn, id)["worker"].startswith("one:")
    assert one.popen.poll() is None


def test_a_half_open_connection_is_noticed_at_both_ends_within_half_a_minute(site: Site, wait_until: Wait) -> None:
    # The worker idles, with the default heartbeat: nothing but the lease's thread and the listener's probe ever speaks.
    one = site.worker("one", "--types", "echo", lease=20.0, heartbeat=5.0, poll=600.0)
    address = site.network["one"].address
    sessions = "select count(*) from pg_stat_activity where client_addr = %s"
    assert site.conn.execute(sessions, [address]).fetchone() != (0,)
    wait_until(sleeping(site.conn))
    # One that is cut off while it connects has not told yet how it is to be probed: Postgres keeps it for a minute.
    busy = f"{sessions} and state is distinct from 'idle'"
    wait_until(lambda: site.conn.execute(busy, [address]).fetchone() == (0,))
    site.network["one"].cut()
    began = time.monotonic()
    wait_until(lambda: one.events("heartbeat.missed"), timeout=NOTICED + SLACK)
    wait_until(lambda: one.events("database.away"), timeout=NOTICED + SLACK)
    wait_until(lambda: site.conn.execute(sessions, [address]).fetchone() == (0,), timeout=NOTICED + SLACK)
    assert time.monotonic() - began < NOTICED + SLACK
    site.network["one"].join()
    wait_until(
        lambda: one.events("database.back") or len(one.events("worker.registered")) >= 2, timeout=NOTICED + SLACK
    )
    id = tasks.create(site.conn, "echo", created_by=1)
    assert wait_until(ended(site.conn, id))["status"] == "success"


def test_the_api_without_its_link_to_postgres_says_503_and_is_not_ready_until_it_is_back(
    site: Site, wait_until: Wait
) -> None:
    host = site.network["api"]
    token = tokens.mint(site.settings, 1)

    def status(path: str) -> tuple[int, str | None]:
        request = urllib.request.Request(api.url + path, headers={"Authorization": f"Bearer {token}"})
        with host.inside():
            try:
                with urllib.request.urlopen(request, timeout=NOTICED + SLACK) as answer:
                    return answer.status, None
            except urllib.error.HTTPError as error:
                return error.code, error.headers["Retry-After"]

    with host.inside():
        api = site.processes.api(settings=site.settings)
    assert status("/ready") == (200, None)
    assert status("/v1/tasks") == (200, None)
    host.cut()
    began = time.monotonic()
    code, retry_after = wait_until(lambda: (found := status("/v1/tasks"))[0] != 200 and found, timeout=NOTICED + SLACK)
    assert (code, retry_after is not None) == (503, True)
    assert status("/ready")[0] == 503
    assert status("/health") == (200, None)
    assert time.monotonic() - began < NOTICED + SLACK
    host.join()
    wait_until(lambda: status("/ready") == (200, None), timeout=NOTICED + SLACK)
    assert status("/v1/tasks") == (200, None)
