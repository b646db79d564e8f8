"""An idle worker, one task at a time: from the start of the create call to the start of the handler.

By the API's path (what ``POST /v1/tasks`` does: insert, commit, then NOTIFY) and by ``create_task()``, which notifies within;
about 15 ms of quiet between two tasks, as with the peers, 20 tasks of warm-up. 1,000 tasks a round, with the peers 500,
or as many as a peer starts in 20 s.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial

from pgfleet import tasks
from pgfleet_api.connections import Connections
from pgfleet_api.creation import Creator
from pgfleet_api.notifier import Notifier
from pgfleet_api.places import for_bodies, for_keyed
from tests.benchmarks import fleet, stamp
from tests.benchmarks.harness import PGFLEET, Bench, Result, percentile
from tests.benchmarks.peers import Peer
from tests.benchmarks.server import Database

API, SQL = f"{PGFLEET}, the API's path", f"{PGFLEET}, create_task()"
GAP, WARM_UP = 0.015, 20
SECONDS_MAX = 20.0


def run(bench: Bench) -> Result:
    result, n = Result(), bench.size(1_000, 40)
    p50: dict[str, list[float]] = {}
    p99: dict[str, list[float]] = {}
    samples: dict[str, list[float]] = {}

    def take(who: str, run: Callable[[], list[float]]) -> float:
        taken = run()
        samples.setdefault(who, []).extend(taken)
        p50.setdefault(who, []).append(percentile(taken, 0.5))
        p99.setdefault(who, []).append(percentile(taken, 0.99))
        return p50[who][-1]

    def theirs(peer: Peer) -> float:
        with bench.peer_database(peer) as database:
            few = bench.size(500, n)
            answer = bench.peer(peer, "latency", database, SECONDS_MAX + 60, n=few, seconds_max=SECONDS_MAX)
        if not answer["n"]:
            raise fleet.BenchmarkFailed("no task started")
        p50.setdefault(peer.name, []).append(answer["p50_ms"])
        p99.setdefault(peer.name, []).append(answer["p99_ms"])
        return float(answer["p50_ms"])

    contestants: dict[str, Callable[[], float | None]] = {
        API: lambda: take(API, lambda: _ours(bench, n, _api)),
        SQL: lambda: take(SQL, lambda: _ours(bench, n, by_create_task)),
    }
    contestants |= {peer.name: partial(theirs, peer) for peer in bench.peers}
    bench.turns(contestants, "latency p50 [ms]")
    middle: dict[str, float] = {}
    for who in contestants:
        if who not in p50:
            result.miss(who, "p50", bench.why(who))
            continue
        mine = who in (API, SQL)
        few, many = ("≤ 1.3", "≤ 4") if mine else ("", "")
        middle[who] = result.add(who, "p50", p50[who], "ms", target=few, reached=(lambda v: v <= 1.3) if mine else None)
        result.add(who, "p99", p99[who], "ms", target=many, reached=(lambda v: v <= 4) if mine else None)
    peers = {peer.name: middle[peer.name] for peer in bench.peers if peer.name in middle}
    if peers and API in middle:
        best = min(peers, key=lambda who: peers[who])
        ratio = middle[API] / peers[best]
        kind = "p50 against the best peer"
        result.add(PGFLEET, kind, ratio, "×", target="≤ 0.5", reached=lambda v: v <= 0.5, note=best)
    result.bars("p50", "ms", p50)
    result.bars("p99", "ms", p99)
    shares = [k / 200 for k in range(200)]
    curves = {who: [(100 * share, percentile(taken, share)) for share in shares] for who, taken in samples.items()}
    result.lines("distribution", "percentile", "ms", curves, log=True)
    return result


def _ours(bench: Bench, n: int, way: Callable[[Database, stamp.Stamps, int], list[float]]) -> list[float]:
    with bench.server.database() as database, stamp.listening() as stamps:
        fleet.register(database, "noop_stamp")
        database.settle_down()
        options = {"types": "noop_stamp", "handlers": "tests.benchmarks.stamp", "env": stamps.env}
        with fleet.workers(database, **options) as started:  # type: ignore[arg-type]
            fleet.wait_registered(database, 1, started)
            time.sleep(0.5)
            return way(database, stamps, n)


def sample(create: Callable[[], int], stamps: stamp.Stamps, n: int) -> list[float]:
    """``n`` latencies in milliseconds, after the warm-up."""
    taken = []
    for _ in range(n + WARM_UP):
        began = time.monotonic_ns()
        taken.append((stamps.next(create()) - began) / 1e6)
        time.sleep(GAP * random.uniform(0.7, 1.3))
    return taken[WARM_UP:]


def _api(database: Database, stamps: stamp.Stamps, n: int) -> list[float]:
    settings = fleet.settings(database)
    connections, notifier = Connections(settings), Notifier(settings)
    notifier.start()
    creator = Creator(connections, notifier, for_keyed(settings.api_threads, for_bodies(settings.api_threads)))
    wanted = tasks.Wanted("noop_stamp", None, 1, any_type=True)

    def create() -> int:
        answer = creator.create(wanted)
        assert answer is not None  # any_type, and the type is known
        return answer[0]

    try:
        return sample(create, stamps, n)
    finally:
        notifier.stop()
        connections.close()


def by_create_task(database: Database, stamps: stamp.Stamps, n: int) -> list[float]:
    with database.connect() as conn:
        return sample(lambda: tasks.create(conn, "noop_stamp", created_by=1), stamps, n)
