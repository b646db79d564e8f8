"""Five minutes of creation at 60 % of the drain rate measured just before: does anything grow?

A creator process calls ``create_many`` in batches of 200; one worker process works them off. Every 5 s: the mean time
of a claim and of a settle (``pg_stat_user_functions``), pick-up times (``started_at - created_at`` of 2,000 tasks
spread over the window; ``created_at`` is the start of the creating transaction), sizes and dead entries. Finished tasks
stay in the table, so its size is taken for each row in it; the indexes of the ready and the running are shown as such.
"No upward trend" is: the straight line through the windows after the first minute rises by less than a tenth.
"""

from __future__ import annotations

import time
from typing import Any

from tests.benchmarks import fleet
from tests.benchmarks.harness import PGFLEET, Bench, Result, growth, percentile
from tests.benchmarks.processes import children, module
from tests.benchmarks.server import Database

SHARE, BATCH, SAMPLES = 0.6, 200, 2_000

_LOOK = """
select coalesce((select max(id) from tasks), 0),
       pg_table_size('tasks'), pg_relation_size('tasks_fresh') + pg_relation_size('tasks_started'),
       (select n_dead_tup from pg_stat_user_tables where relname = 'tasks'),
       (select autovacuum_count from pg_stat_user_tables where relname = 'tasks')
"""
_FUNCTIONS = "select funcname, calls, total_time from pg_stat_user_functions where schemaname = 'public'"
# One that nobody has picked up counts with what it has waited so far.
_PICK_UPS = """
select extract(epoch from coalesce(started_at, clock_timestamp()) - created_at)::float8 * 1000, started_at is null
from unnest(%s::bigint[]) n(id) join tasks t on t.id = n.id
"""


def run(bench: Bench) -> Result:
    result = Result()
    seconds, window = (30.0, 2.0) if bench.quick else (300.0, 5.0)
    first = 10.0 if bench.quick else 60.0
    full = _drain_rate(bench, bench.size(200_000, 10_000))
    bench.say(f"steady: {SHARE:.0%} of {full:,.0f} tasks/s for {seconds:.0f} s")
    with bench.server.database() as database:
        with database.connect() as conn:
            name = conn.info.dbname
            conn.execute(f'alter database "{name}" set track_functions = pl')  # type: ignore[arg-type]
        fleet.register(database, "noop")
        database.settle_down()
        with fleet.workers(database) as started:
            fleet.wait_registered(database, 1, started)
            line = module("tests.benchmarks.paced", database.url, full * SHARE, BATCH)
            with children([line], talks=True) as creators:
                windows = _watch(bench, database, seconds, window, [*started, *creators])
                creators[0].tell("end")
                created = creators[0].answer()
    _report(result, windows, created["rate"], full, first)
    return result


def _drain_rate(bench: Bench, n: int) -> float:
    with bench.server.database() as database:
        return fleet.drain(database, fleet.backlog(database, n)).rate


def _watch(bench: Bench, database: Database, seconds: float, window: float, alive: list[Any]) -> list[dict[str, float]]:
    windows: list[dict[str, float]] = []
    calls: dict[str, tuple[int, float]] = {}
    seen_id = 0
    with database.connect() as conn:
        began = time.monotonic()
        while (now := time.monotonic() - began) < seconds:
            time.sleep(window)
            for child in alive:
                child.check()
            row = conn.execute(_LOOK).fetchone()
            assert row is not None
            last, size, indexes, dead, vacuums = row
            # The newest may not be picked up yet: those of up to a second ago are left to the next window.
            upto = max(seen_id, last - round((last - seen_id) / window)) if windows else last
            step = max(1, (upto - seen_id) // SAMPLES)
            picked = conn.execute(_PICK_UPS, [list(range(seen_id + 1, upto + 1, step))]).fetchall()
            waits = [wait for wait, _ in picked]
            entry = {
                "at": now + window,
                "rate": (last - (windows[-1]["last"] if windows else 0)) / window,
                "last": last,
                "bytes_per_row": size / max(1, last),
                "index_mb": indexes / 1e6,
                "dead": dead or 0,
                "vacuums": vacuums or 0,
                "unclaimed": sum(unclaimed for _, unclaimed in picked),
            }
            if waits:
                entry |= {"p50": percentile(waits, 0.5), "p99": percentile(waits, 0.99), "max": max(waits)}
            for function, count, milliseconds in conn.execute(_FUNCTIONS).fetchall():
                before, spent = calls.get(function, (0, 0.0))
                if function in ("claim_tasks", "finish_tasks") and count > before:
                    entry[function] = (milliseconds - spent) / (count - before)
                calls[function] = (count, milliseconds)
            windows.append(entry)
            seen_id = upto
            if len(windows) % 6 == 1:
                p99 = entry.get("p99", float("nan"))
                bench.say(f"steady: {entry['at']:.0f} s: {entry['rate']:,.0f}/s, pick-up p99 {p99:.1f} ms")
    return windows


def _report(result: Result, windows: list[dict[str, float]], created: float, full: float, first: float) -> None:
    later = [w for w in windows if w["at"] > first]
    result.detail["windows"] = windows
    result.add(PGFLEET, "drain rate just before", full, "tasks/s")
    result.add(PGFLEET, "created", created, "tasks/s", note=f"{created / full:.0%} of it; asked for {SHARE:.0%}")
    kinds = {"claim_tasks": ("time of a claim", "ms"), "finish_tasks": ("time of a settle", "ms"),
             "bytes_per_row": ("table size a row", "bytes"), "index_mb": ("size of the queue's indexes", "MB")}  # fmt: skip
    for key, (name, unit) in kinds.items():
        points = [(w["at"], w[key]) for w in later if key in w]
        if not points:
            result.miss(PGFLEET, name, "no sample")
            continue
        result.add(PGFLEET, name, [value for _, value in points], unit)
        judged = key in ("claim_tasks", "bytes_per_row")
        target = {"target": "< 0.1", "reached": lambda v: v < 0.1} if judged else {}
        result.add(PGFLEET, f"{name}: rise after the first minute", growth(points), "×", **target)  # type: ignore[arg-type]
    p99 = [w["p99"] for w in later if "p99" in w]
    if p99:
        result.add(PGFLEET, "pick-up p50", [w["p50"] for w in later if "p50" in w], "ms")
        worst = "median of the windows after the first minute"
        result.add(PGFLEET, "pick-up p99", p99, "ms", target="≤ 50", reached=lambda v: v <= 50, note=worst)
        result.add(PGFLEET, "pick-up, the longest", max(w["max"] for w in later if "max" in w), "ms")
    curves = {"p50": "p50", "p99": "p99"}
    result.lines("pick-up", "s", "ms", {n: [(w["at"], w[k]) for w in windows if k in w] for n, k in curves.items()})
    curves = {"claim": "claim_tasks", "settle": "finish_tasks"}
    result.lines("time of", "s", "ms", {n: [(w["at"], w[k]) for w in windows if k in w] for n, k in curves.items()})
    result.lines("created", "s", "tasks/s", {PGFLEET: [(w["at"], w["rate"]) for w in windows]})
    result.lines("queue's indexes", "s", "MB", {PGFLEET: [(w["at"], w["index_mb"]) for w in windows]})
