"""One worker's resident memory: idle for 5 s after its start, and after 1,000,000 no-op tasks."""

from __future__ import annotations

import time

from tests.benchmarks import fleet
from tests.benchmarks.harness import PGFLEET, Bench, Result


def run(bench: Bench) -> Result:
    result, n = Result(), bench.size(1_000_000, 10_000)
    idle, growth = [], []
    rounds = bench.rounds(2)
    for number in range(1, rounds + 1):
        with bench.server.database() as database:
            fleet.register(database, "noop")
            database.settle_down()
            with fleet.workers(database) as started:
                fleet.wait_registered(database, 1, started)
                time.sleep(bench.size(5, 1))
                before = started[0].resident()
                began = time.monotonic()
                last = fleet.backlog(database, n)
                fleet.watch(database, last, started, 300, began=began)
                time.sleep(bench.size(2, 1))
                after = started[0].resident()
        idle.append(before / 1e6)
        growth.append((after - before) / 1e6)
        bench.say(f"memory {number}/{rounds}: {idle[-1]:.1f} MB, {growth[-1]:+.1f} MB")
    result.add(PGFLEET, "resident, idle", idle, "MB", target="≤ 50", reached=lambda v: v <= 50)
    result.add(PGFLEET, f"growth after {n:,} tasks", growth, "MB", target="≤ 5", reached=lambda v: v <= 5)
    result.bars("resident memory of one worker", "MB", {"idle": idle, "growth": growth})
    return result
