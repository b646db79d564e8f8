"""Schedules: how late a due time's run begins, 1,000 due in the same second for 6 workers, and 100,000 idle ones.

Lateness over 1,000 due times 50 ms apart, two idle workers: until the firing transaction began (``created_at``), and until the
run was claimed (``started_at``), by the database's clock. The burst counts from the due time until this process sees all 1,000
committed. The idle share is the processor time of the worker and its keeper over half a minute, of one core.
"""

from __future__ import annotations

import time

from tests.benchmarks import fleet
from tests.benchmarks.harness import PGFLEET, Bench, Result, percentile
from tests.benchmarks.processes import BenchmarkFailed

GAP = 0.05
WORKERS = 6

_TICK = """
select put_schedule('tick', 'noop', overlap => 'allow', triggers => jsonb_build_array(
    jsonb_build_object('kind', 'interval', 'every', %s::float8, 'due_at', now() + interval '1 second')))
"""
_LATE = """
select 1000 * extract(epoch from created_at - due_at)::float8, 1000 * extract(epoch from started_at - due_at)::float8
from tasks where schedule = 'tick' order by id limit %s
"""
_DUE_AT_ONCE = """
select put_schedule('s' || n, 'noop', triggers => jsonb_build_array(
    jsonb_build_object('kind', 'once', 'at', %s::timestamptz))) from generate_series(1, %s) n
"""
# As put_schedule would make them, in a hundredth of the time.
_IDLE = """
with made as (insert into schedules (name, type) select 'idle ' || n, 'noop' from generate_series(1, %s) n returning name)
insert into triggers (schedule, kind, every, due_at) select name, 'interval', '1 day', now() + interval '1 day' from made
"""


def run(bench: Bench) -> Result:
    result = Result()
    fired: list[float] = []
    begun: list[float] = []
    bursts: list[float] = []
    shares: dict[int, list[float]] = {}
    due, many, idle = bench.size(1_000, 20), bench.size(1_000, 50), bench.size(100_000, 1_000)
    rounds = bench.rounds(1)
    for number in range(1, rounds + 1):
        some_fired, some_begun = _lateness(bench, due)
        fired += some_fired
        begun += some_begun
        bursts.append(_burst(bench, many))
        for count in (0, idle):
            shares.setdefault(count, []).append(_idle(bench, count))
        bench.say(
            f"firing {number}/{rounds}: late p99 {percentile(begun, 0.99):.1f} ms, burst {bursts[-1]:.2f} s, "
            f"idle {shares[idle][-1]:.2f} %"
        )
    for what, late in (("fired", fired), ("begun", begun)):
        for share in (0.5, 0.99):
            small = (lambda v: v <= 50) if share == 0.99 else None
            target = "≤ 50" if share == 0.99 else ""
            result.add(
                PGFLEET,
                f"late, {what}, p{100 * share:.0f}",
                percentile(late, share),
                "ms",
                target=target,
                reached=small,
            )
    result.add(
        PGFLEET, f"{many:,} due at once, {WORKERS} workers, all created", bursts, "s", target="≤ 1",
        reached=lambda v: v <= 1, note="each once, or the run fails",
    )  # fmt: skip
    for count, taken in shares.items():
        metric = f"an idle worker, {count:,} idle schedules"
        if count:
            result.add(PGFLEET, metric, taken, "% of a core", target="< 1", reached=lambda v: v < 1)
        else:
            result.add(PGFLEET, metric, taken, "% of a core")
    result.bars("processor time of an idle worker, by idle schedules", "%", {f"{n:,}": v for n, v in shares.items()})
    return result


def _lateness(bench: Bench, due: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each due time, until fired and until begun."""
    with bench.server.database() as database:
        fleet.register(database, "noop")
        database.settle_down()
        with fleet.workers(database, 2) as started, database.connect() as conn:
            fleet.wait_registered(database, 2, started)
            conn.execute(_TICK, [GAP])
            deadline = time.monotonic() + due * GAP + 30
            while len(rows := conn.execute(_LATE, [due]).fetchall()) < due or rows[-1][1] is None:
                if time.monotonic() > deadline:
                    raise BenchmarkFailed(f"of {due} due times {len(rows)} were fired")
                time.sleep(0.5)
            return [row[0] for row in rows], [row[1] for row in rows]


def _burst(bench: Bench, count: int) -> float:
    """Seconds from the due time that ``count`` schedules share until all their tasks are there."""
    with bench.server.database() as database:
        fleet.register(database, "noop")
        with fleet.workers(database, WORKERS) as started, database.connect() as conn:
            fleet.wait_registered(database, WORKERS, started)
            moment = database.value("select now() + make_interval(secs => %s)", bench.size(10, 3))
            conn.execute(_DUE_AT_ONCE, [moment, count])
            if database.value("select clock_timestamp() > %s::timestamptz - interval '1 second'", moment):
                raise BenchmarkFailed("making the schedules took longer than the time given")
            deadline = time.monotonic() + 60
            made = "select count(*), count(distinct schedule), extract(epoch from clock_timestamp() - %s)::float8 from tasks"
            while True:
                row = conn.execute(made, [moment]).fetchone()
                assert row is not None
                if row[0] >= count:
                    break
                if time.monotonic() > deadline:
                    raise BenchmarkFailed(f"of {count} due at once {row[0]} were fired")
                time.sleep(0.01)
            time.sleep(bench.size(2, 1))
            after = conn.execute(made, [moment]).fetchone()
            assert after is not None
            if after[:2] != (count, count):
                raise BenchmarkFailed(f"{count} due at once made {after[0]} tasks for {after[1]} schedules")
            return float(row[2])


def _idle(bench: Bench, count: int) -> float:
    """The share of a core, in percent, that a worker with nothing to do takes beside so many idle schedules."""
    with bench.server.database() as database:
        fleet.register(database, "noop")
        with database.connect() as conn:
            conn.execute(_IDLE, [count])
        database.settle_down()
        with fleet.workers(database) as started:
            fleet.wait_registered(database, 1, started)
            time.sleep(bench.size(5, 1))
            seconds = bench.size(30, 2)
            before = started[0].cpu()
            time.sleep(seconds)
            return 100 * (started[0].cpu() - before) / seconds
