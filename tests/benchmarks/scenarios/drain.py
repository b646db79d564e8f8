"""A backlog of no-op tasks worked off: 200,000 by one worker process and by four; tasks of 1 and 20 ms, 100 at once.

The backlog stands before the workers start. The rate runs from the first claim to the last settle (pgfleet, the limit:
by the rows' own times; peers: from the start of the first handler until the database holds no unsettled task).
A peer that is not through after 12 s is shown by what it settled until then, which does it no harm: the longer it
works, the more dead entries are in its way.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.benchmarks import fleet
from tests.benchmarks.harness import LIMIT, PGFLEET, Bench, Result, believable
from tests.benchmarks.peers import Peer, PeerError, command
from tests.benchmarks.processes import children

#: Of a peer's work. The fastest are through in a third of it.
SECONDS_MAX = 12.0
READERS = "pgfleet, readers' tasks"
CUT = f"what it settled in {SECONDS_MAX:.0f} s"


def run(bench: Bench) -> Result:
    result = Result()
    n = bench.size(200_000, 5_000)
    _noop(bench, result, n)
    if bench.quick:
        return result
    _several(bench, result, n, processes=4)
    _timed(bench, result, "1 ms tasks, 100 at once", ms=1, n=100_000)
    _timed(bench, result, "20 ms tasks, 100 at once", ms=20, n=20_000)
    return result


def ours(bench: Bench, n: int, *, created_by: int = 0, type: str = "noop", **options: Any) -> float:
    """pgfleet's rate over a backlog of ``n``."""
    with fleet.standing(bench.server, n, type=type, created_by=created_by) as (database, last):
        return fleet.drain(database, last, types=type, **options).rate


def theirs(bench: Bench, peer: Peer, n: int, cut: set[str], **options: Any) -> float:
    """A peer's rate over a backlog of ``n``, or over what it settled within :data:`SECONDS_MAX`: then ``cut`` names it."""
    with bench.peer_database(peer, n) as database:
        answer = bench.peer(peer, "drain", database, SECONDS_MAX + 120, n=n, seconds_max=SECONDS_MAX, **options)
    if not answer["complete"]:
        cut.add(peer.name)
    return float(answer["n"] / answer["seconds"])


def the_limit(bench: Bench, n: int) -> float:
    """The bare loop's rate over a backlog of ``n``."""
    with fleet.standing(bench.server, n) as (database, last):
        return fleet.limit(database, last).rate


def _noop(bench: Bench, result: Result, n: int) -> None:
    contestants: dict[str, Callable[[], float | None]] = {
        PGFLEET: lambda: ours(bench, n),
        LIMIT: lambda: the_limit(bench, n),
        READERS: lambda: ours(bench, n, created_by=1),
    }
    cut: set[str] = set()
    contestants |= {peer.name: partial(theirs, bench, peer, n, cut) for peer in bench.peers}
    rates = bench.turns(contestants, "drain")
    metric, unit = f"{n:,} no-op tasks, 1 process", "tasks/s"
    middle: dict[str, float] = {}
    for who, values in rates.items():
        if not values:
            result.miss(who, metric, bench.why(who))
        elif who == PGFLEET:
            middle[who] = result.add(who, metric, values, unit, target="≥ 60,000", reached=lambda v: v >= 60_000)
        else:
            note = "created_by > 0: one more index" if who == READERS else CUT * (who in cut)
            middle[who] = result.add(who, metric, values, unit, note=note)
    if PGFLEET in middle and LIMIT in middle:
        share = middle[PGFLEET] / middle[LIMIT]
        result.add(PGFLEET, "share of the limit", share, "×", target="≥ 0.65", reached=lambda v: v >= 0.65)
    _against_the_best(bench, result, middle)
    result.bars(metric, unit, rates)


def _against_the_best(bench: Bench, result: Result, middle: dict[str, float]) -> None:
    peers = {peer.name: middle[peer.name] for peer in bench.peers if peer.name in middle}
    if peers and PGFLEET in middle:
        best = max(peers, key=lambda who: peers[who])
        ratio = middle[PGFLEET] / peers[best]
        reached = lambda v: v >= 2.5  # noqa: E731
        result.add(PGFLEET, "against the best peer", ratio, "×", target="≥ 2.5", reached=reached, note=best)


def _several(bench: Bench, result: Result, n: int, processes: int) -> None:
    contestants: dict[str, Callable[[], float | None]] = {PGFLEET: lambda: ours(bench, n, processes=processes)}
    cut: set[str] = set()
    contestants |= {peer.name: partial(_their_processes, bench, peer, n, processes, cut) for peer in bench.peers}
    metric = f"{n:,} no-op tasks, {processes} processes"
    rates = bench.turns(contestants, metric, most=2)
    for who, values in rates.items():
        if values:
            result.add(who, metric, values, "tasks/s", note=CUT * (who in cut))
        else:
            result.miss(who, metric, bench.why(who))
    result.bars(metric, "tasks/s", rates)


def _their_processes(bench: Bench, peer: Peer, n: int, processes: int, cut: set[str]) -> float:
    with bench.peer_database(peer, n) as database:
        line = command(peer, "drain", database.url, env=bench.env, n=n, seconds_max=SECONDS_MAX)
        began = time.monotonic()
        with children([line] * processes, talks=True) as started:
            answers = [child.answer() for child in started]
        if time.monotonic() - began > SECONDS_MAX + 120:
            raise PeerError(f"{peer.name}: {processes} processes took too long")
    believable(peer, answers)
    whole = [answer for answer in answers if answer["complete"]]
    if not whole:
        cut.add(peer.name)
    began = min(answer["started"] for answer in answers)
    # Each sees for itself, at its next look, that nothing is left: the first to see it is nearest to the truth, which
    # may still be half a second (an adapter's SILENCE) too late. Against the peers; little on a run of many seconds.
    ended = min(answer["ended"] for answer in whole) if whole else max(answer["ended"] for answer in answers)
    settled = n if whole else max(answer["n"] for answer in answers)
    return float(settled / (ended - began))


def _timed(bench: Bench, result: Result, metric: str, *, ms: int, n: int) -> None:
    type = f"sleep_{ms}ms"
    contestants: dict[str, Callable[[], float | None]] = {
        f"{PGFLEET}, threads": lambda: ours(bench, n, type=type, concurrency=100),
        f"{PGFLEET}, async": lambda: ours(bench, n, type=f"{type}_async", concurrency=100),
    }
    cut: set[str] = set()
    contestants |= {p.name: partial(theirs, bench, p, n, cut, concurrency=100, task_ms=ms) for p in bench.peers}
    rates = bench.turns(contestants, metric, most=2)
    for who, values in rates.items():
        if values:
            most = f"at most {100_000 // ms:,} by arithmetic"
            result.add(who, metric, values, "tasks/s", note=f"{most}; {CUT}" if who in cut else most)
        else:
            result.miss(who, metric, bench.why(who))
    result.bars(metric, "tasks/s", rates)
