"""Creation: one by one over 32 connections, in bulk, and by HTTP with 32 clients.

The same driver (``load.py``) for every way. A connection LISTENs, as a worker would, but nothing is worked off, so
that what is compared is creation alone. ``create_task()`` runs in foreign transactions (BEGIN, an insert of the
application's own, create_task, COMMIT) beside a real worker of another type: a busy one, which needs no waking, and an
idle one, which makes each of these transactions notify under Postgres's instance-wide lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import psycopg

from pgfleet import tasks
from tests.benchmarks import creating, fleet
from tests.benchmarks.harness import PGFLEET, Bench, Result
from tests.benchmarks.peers import Peer
from tests.benchmarks.processes import BenchmarkFailed
from tests.benchmarks.scenarios import http
from tests.benchmarks.server import Database

CLIENTS = 32
INSERT, API = "inserts without any NOTIFY", "the API's path: commit, then batched NOTIFY"
SQL = "create_task(), one listener"
FOREIGN = "foreign transactions with insert_task()"
FOREIGN_BUSY, FOREIGN_IDLE = "foreign transactions with create_task(), busy fleet", "the same, idle fleet"
BULK = "bulk, create_many"


def run(bench: Bench) -> Result:
    result = Result()
    seconds = 1.0 if bench.quick else 5.0
    ways: dict[str, Callable[[], float | None]] = {
        INSERT: lambda: _one_by_one(bench, "insert", seconds),
        API: lambda: _one_by_one(bench, "api", seconds),
        SQL: lambda: _one_by_one(bench, "create_task", seconds),
        FOREIGN: lambda: _foreign(bench, "foreign insert", seconds, busy=True),
        FOREIGN_BUSY: lambda: _foreign(bench, "foreign create_task", seconds, busy=True),
        FOREIGN_IDLE: lambda: _foreign(bench, "foreign create_task", seconds, busy=False),
        BULK: lambda: _bulk(bench, bench.size(500_000, 20_000)),
    }
    peers = {peer.name: partial(_theirs, bench, peer, bench.size(15_000, 1_000)) for peer in bench.peers}
    rates = bench.turns({**ways, **peers}, "create")
    middle = {}
    for who, values in rates.items():
        name, metric = (PGFLEET, who) if who in ways else (who, "one by one, 32 clients")
        if not values:
            result.miss(name, metric, bench.why(who))
        elif who == BULK:
            reached = lambda v: v >= 100_000  # noqa: E731
            result.add(name, metric, values, "tasks/s", target="≥ 100,000", reached=reached)
        else:
            middle[who] = result.add(name, metric, values, "tasks/s")
    for who, base, least in ((API, INSERT, 0.85), (FOREIGN_BUSY, FOREIGN, 0.75)):
        if who in middle and base in middle:
            share = middle[who] / middle[base]
            reached = partial(_at_least, least)
            result.add(PGFLEET, f"{who} / {base}", share, "×", target=f"≥ {least}", reached=reached)
    _http(bench, result)
    named = {f"{PGFLEET}: {who}" if who in ways else who: values for who, values in rates.items()}
    bulk = f"{PGFLEET}: {BULK}"
    result.bars("one by one, 32 clients", "tasks/s", {who: v for who, v in named.items() if who != bulk})
    result.bars("bulk", "tasks/s", {bulk: rates[BULK]})
    return result


def _at_least(least: float, value: float) -> bool:
    return value >= least


def _one_by_one(bench: Bench, way: str, seconds: float) -> float:
    with bench.server.database() as database:
        fleet.register(database, "noop")
        database.settle_down()
        with listener(database):
            return creating.rate(database, way, clients=CLIENTS, seconds=seconds)


def _foreign(bench: Bench, way: str, seconds: float, *, busy: bool) -> float:
    with bench.server.database() as database:
        with database.connect() as conn:
            conn.execute("create table orders (id bigint generated always as identity primary key, customer bigint)")
        fleet.register(database, "noop")
        if busy:
            fleet.backlog(database, round(50 * (seconds + 60)), type="sleep_20ms")
        else:
            fleet.register(database, "sleep_20ms")
        database.settle_down()
        with fleet.workers(database, types="sleep_20ms", concurrency=1) as started:
            _wait(database, busy=busy, check=started[0].check)
            rate = creating.rate(database, way, clients=CLIENTS, seconds=seconds)
            _wait(database, busy=busy, check=started[0].check)  # it is still what it was
    return rate


def _wait(database: Database, *, busy: bool, check: Callable[[], None], timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while database.value("select count(*) from workers where lost_at is null and sleeping <> %s", busy) != 1:
        check()
        if time.monotonic() > deadline:
            raise BenchmarkFailed(f"no worker that is {'busy' if busy else 'asleep'} after {timeout:g} s")
        time.sleep(0.05)


@contextmanager
def listener(database: Database) -> Iterator[None]:
    """A connection that LISTENs and reads, as an idle worker's does, and no worker behind it."""
    over = threading.Event()
    ready = threading.Event()

    def listen() -> None:
        with psycopg.connect(database.url, autocommit=True, application_name="pgfleet bench") as conn:
            conn.execute("listen task_created")
            ready.set()
            while not over.is_set():
                for _ in conn.notifies(timeout=0.2):
                    pass

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield
    finally:
        over.set()
        thread.join(10)


def _bulk(bench: Bench, n: int) -> float:
    with bench.server.database() as database:
        fleet.register(database, "noop")
        database.settle_down()
        with database.connect() as conn:
            size = min(10_000, n)
            tasks.create_many(conn, "noop", [{"n": k} for k in range(100)], created_by=1)
            began = time.perf_counter()
            for at in range(0, n, size):
                tasks.create_many(conn, "noop", [{"n": k} for k in range(at, at + size)], created_by=1)
            return n / (time.perf_counter() - began)


def _theirs(bench: Bench, peer: Peer, n: int) -> float:
    with bench.peer_database(peer) as database:
        answer = bench.peer(peer, "create", database, 240, n=n, clients=CLIENTS)
    return float(answer["rate"])


def _http(bench: Bench, result: Result) -> None:
    http.rows(result, http.measure(bench, clients=CLIENTS))
