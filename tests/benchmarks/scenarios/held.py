"""1,000,000 no-op tasks while another connection holds a snapshot (REPEATABLE READ, kept open), and without it.

No dead entry can be cleaned meanwhile: a claim that walks the queue from its front meets all of them. A peer that is
not through after 40 s is shown by what it settled until then, which flatters it: it slows down all the time. One that
settles a few thousand a second has a backlog of 200,000, more than it gets through, which flatters it as well. pgfleet
and the limit take turns; the peers follow, once each.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg

from tests.benchmarks import fleet
from tests.benchmarks.harness import LIMIT, PGFLEET, Bench, Result
from tests.benchmarks.peers import Peer
from tests.benchmarks.server import Database

SECONDS_MAX = 40.0
#: The backlog of a slow peer, as in ``drain``: some need minutes to enqueue a million, of which they work off a tenth.
FEWER = 200_000
FREE = "pgfleet, no snapshot"

_WRITES = """
select coalesce(sum(n_tup_upd + n_tup_del), 0) from pg_stat_user_tables where schemaname || '.' || relname = any (%s)
"""
_OVER_TIME = """
select floor(extract(epoch from updated_on - (select min(started_at) from tasks)))::int as second, count(*)
from tasks where status = 'success' group by 1 order by 1
"""


def run(bench: Bench) -> Result:
    result, n = Result(), bench.size(1_000_000, 20_000)
    tails: dict[str, list[float]] = {}
    series: dict[str, list[tuple[float, float]]] = {}
    contestants: dict[str, Callable[[], float | None]] = {
        PGFLEET: lambda: _ours(bench, n, tails, series, held=True),
        FREE: lambda: _ours(bench, n, tails, series, held=False),
        LIMIT: lambda: _limit(bench, n),
    }
    rates = bench.turns(contestants, "held")
    cut: dict[str, str] = {}
    theirs: dict[str, Callable[[], float | None]] = {
        peer.name: partial(_theirs, bench, peer, min(n, FEWER) if peer.slow else n, tails, series, cut)
        for peer in bench.peers
    }
    rates |= bench.turns(theirs, "held", most=1)
    metric, last = f"{n:,} tasks under a held snapshot", "the same, over the last quarter"
    middle: dict[str, float] = {}
    for who, values in rates.items():
        if not values:
            result.miss(who, metric, bench.why(who))
            continue
        what = metric if who != FREE else f"{n:,} tasks"
        middle[who] = result.add(who, what, values, "tasks/s", note=cut.get(who, ""))
        if who in tails:
            result.add(who, last, tails[who], "tasks/s")
    if PGFLEET in middle and FREE in middle:
        share = middle[PGFLEET] / middle[FREE]
        result.add(PGFLEET, "of its own rate without", share, "×", target="≥ 0.7", reached=lambda v: v >= 0.7)
    locking = {p.name: middle[p.name] for p in bench.peers if p.row_locking and p.name in middle}
    if locking and PGFLEET in middle:
        best = max(locking, key=lambda who: locking[who])
        ratio = middle[PGFLEET] / locking[best]
        kind = "against the best row-locking peer"
        result.add(PGFLEET, kind, ratio, "×", target="≥ 20", reached=lambda v: v >= 20, note=best)
        ends = {who: sorted(tails[who])[len(tails[who]) // 2] for who in locking if tails.get(who)}
        if len(ends) == len(locking) and tails.get(PGFLEET):  # one missing might be the best
            best = max(ends, key=lambda who: ends[who])
            own = sorted(tails[PGFLEET])[len(tails[PGFLEET]) // 2]
            if ends[best]:
                result.add(PGFLEET, f"{kind}, last quarter", own / ends[best], "×", note=best)
    result.bars(metric, "tasks/s", rates, log=True)
    result.lines("over time (the last round)", "s", "tasks/s", series, log=True)
    return result


@contextmanager
def snapshot(database: Database) -> Iterator[None]:
    """A transaction that sees the database as it is now, and goes on doing so."""
    with database.connect(autocommit=False) as conn:
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        conn.execute("select 1 from pg_class limit 1")
        try:
            yield
        finally:
            conn.rollback()


def _ours(bench: Bench, n: int, tails: dict[str, Any], series: dict[str, Any], *, held: bool) -> float:
    who = PGFLEET if held else FREE
    with fleet.standing(bench.server, n) as (database, last):
        if held:
            with snapshot(database):
                drained = fleet.drain(database, last)
        else:
            drained = fleet.drain(database, last)
        tail = database.value(
            "select count(*) from tasks where updated_on >="
            " (select max(updated_on) - (max(updated_on) - min(started_at)) / 4 from tasks)"
        )
        tails.setdefault(who, []).append(tail / (drained.seconds / 4))
        with database.connect() as conn:
            rows = conn.execute(_OVER_TIME).fetchall()
        series[who] = [(float(second), float(count)) for second, count in rows[:-1]]  # the last second is cut short
    return drained.rate


def _limit(bench: Bench, n: int) -> float:
    with fleet.standing(bench.server, n) as (database, last), snapshot(database):
        return fleet.limit(database, last).rate


def _theirs(
    bench: Bench, peer: Peer, n: int, tails: dict[str, Any], series: dict[str, Any], cut: dict[str, str]
) -> float:
    with bench.peer_database(peer, n) as database, snapshot(database):
        tables = bench.peer(peer, "tables", database, 60)["tables"]
        with _writes(database, tables) as seen:
            answer = bench.peer(peer, "drain", database, SECONDS_MAX + 120, n=n, seconds_max=SECONDS_MAX)
    rate = float(answer["n"] / answer["seconds"])
    whole = "all" if answer["complete"] else f"{answer['n']:,} in {SECONDS_MAX:.0f} s"
    cut[peer.name] = f"{whole} of {n:,}"
    # The rows updated and deleted stand for tasks: their share of the last quarter is that of its tasks.
    began = answer["started"]
    points = [(at - began, count) for at, count in seen if began - 1.0 <= at <= answer["ended"]]
    if len(points) > 4 and points[-1][1] > points[0][1]:
        tasks_per_write = answer["n"] / (points[-1][1] - points[0][1])
        quarter = next(i for i, (at, _) in enumerate(points) if at >= points[-1][0] * 0.75)
        (a, x), (b, y) = points[min(quarter, len(points) - 2)], points[-1]
        tails.setdefault(peer.name, []).append((y - x) * tasks_per_write / (b - a))
        series[peer.name] = [
            (a, max(1.0, (y - x) * tasks_per_write / (b - a)))
            for (a, x), (b, y) in zip(points[:-2:2], points[2::2], strict=False)
        ]
    return rate


@contextmanager
def _writes(database: Database, tables: list[str]) -> Iterator[list[tuple[float, float]]]:
    """Samples, once a second, of (epoch seconds, rows updated or deleted so far in ``tables``)."""
    seen: list[tuple[float, float]] = []
    over = threading.Event()

    def sample() -> None:
        with psycopg.connect(database.url, autocommit=True, application_name="pgfleet bench") as conn:
            while not over.wait(1.0):
                row = conn.execute(_WRITES, [tables]).fetchone()
                seen.append((time.time(), float(row[0]) if row else 0.0))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join(10)
