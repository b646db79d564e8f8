"""1, 50 and 200 idle workers that LISTEN: how fast 32 clients create by the API's path, and how soon a task starts.

The workers are real ones, each a process, forked from one that has imported everything (``idle_workers.py``): apart they
would need 10 GB. Nothing is measured before their start is over: each has settled a task, and so made its last connection
and its plans; and for three seconds on end they take no more of the processor than heartbeats do. Every task must be
claimed once (attempt 1), however many were woken for it.
"""

from __future__ import annotations

import time

from pgfleet import tasks
from tests.benchmarks import creating, fleet, stamp
from tests.benchmarks.harness import PGFLEET, Bench, Result, percentile
from tests.benchmarks.processes import BenchmarkFailed, Child, children, module
from tests.benchmarks.scenarios import latency
from tests.benchmarks.server import Database, Server

#: Parts of a core: what idle workers' processes take at most, so many of them and each worker. Starting takes all there is.
QUIET, QUIET_EACH = 0.05, 0.0015
_SETTLERS = "select count(*) from pg_stat_activity where application_name = 'pgfleet settle'"


def run(bench: Bench) -> Result:
    result, counts = Result(), [1, 5] if bench.quick else [1, 50, 200]
    rates: dict[str, list[float]] = {}
    waits: dict[str, list[float]] = {}
    # A worker may hold 4 connections: LISTEN, claim, settle, heartbeat.
    with bench.other_server(max_connections="1000") as server:
        rounds = bench.rounds(2)
        for number in range(1, rounds + 1):
            for count in counts:
                rate, wait = _measure(bench, server, count)
                rates.setdefault(f"{count}", []).append(rate)
                waits.setdefault(f"{count}", []).append(wait)
                bench.say(f"listeners {number}/{rounds}: {count}: {rate:,.0f} created/s, {wait:.2f} ms")
    middle = {}
    for count in counts:
        middle[count] = result.add(PGFLEET, f"created, {count} listening", rates[str(count)], "tasks/s")
        result.add(PGFLEET, f"p50 latency, {count} listening", waits[str(count)], "ms")
    share = middle[counts[-1]] / middle[counts[0]]
    metric = f"creation rate with {counts[-1]} / with {counts[0]}"
    result.add(PGFLEET, metric, share, "×", target="≥ 0.7", reached=lambda v: v >= 0.7)
    once = "every task claimed once"
    result.add(PGFLEET, once, 1, "", target="yes", reached=bool, note="a run with a second attempt fails")
    result.bars("creation by 32 clients, workers listening", "tasks/s", rates)
    result.bars("p50 latency, workers listening", "ms", waits)
    return result


def _measure(bench: Bench, server: Server, count: int) -> tuple[float, float]:
    with server.database() as database, stamp.listening() as stamps:
        fleet.register(database, "noop", "noop_stamp", "sleep_20ms")
        database.settle_down()
        line = module("tests.benchmarks.idle_workers", database.url, count)
        with children([line], env=stamps.env, talks=True) as started:
            for child in started:
                child.line()
            fleet.wait_registered(database, count, started, timeout=120)
            _let_each_work(database, count, started)
            _wait_quiet(count, started)
            taken = latency.by_create_task(database, stamps, bench.size(200, 30))
            rate = creating.rate(database, "api", seconds=1.0 if bench.quick else 5.0)
            _all_once(database)
        return rate, percentile(taken, 0.5)


def _let_each_work(database: Database, count: int, started: list[Child], timeout: float = 90.0) -> None:
    """Create bursts until each worker has settled a task: it connects for that when it first has one to settle."""
    deadline = time.monotonic() + timeout
    with database.connect() as conn:
        while int(database.value(_SETTLERS)) < count:
            if time.monotonic() > deadline:
                raise BenchmarkFailed(f"not each of {count} workers has had a task after {timeout:g} s")
            started[0].check()
            # Long ones, and a pause in which all fall asleep: else the few that are awake take every burst.
            tasks.create_many(conn, "sleep_20ms", [None] * (20 * count), created_by=0)
            time.sleep(1)


def _wait_quiet(count: int, started: list[Child], timeout: float = 90.0) -> None:
    """Wait until the workers do nothing but live. Registered and said to sleep is each long before it is idle."""
    deadline = time.monotonic() + timeout
    quiet, before = 0, sum(child.cpu() for child in started)
    while quiet < 3:
        if time.monotonic() > deadline:
            raise BenchmarkFailed(f"{count} idle workers are still not quiet after {timeout:g} s")
        time.sleep(1)
        now = sum(child.cpu() for child in started)
        quiet = quiet + 1 if now - before <= max(QUIET, QUIET_EACH * count) else 0
        before = now


def _all_once(database: Database, timeout: float = 120.0) -> None:
    deadline = time.monotonic() + timeout
    while left := database.value("select count(*) from tasks where status <> 'success'"):
        if time.monotonic() > deadline:
            raise BenchmarkFailed(f"{left} tasks are left after {timeout:g} s")
        time.sleep(0.2)
    if twice := database.value("select count(*) from tasks where attempt <> 1"):
        raise BenchmarkFailed(f"{twice} tasks were claimed more than once")
