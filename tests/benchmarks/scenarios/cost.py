"""What a no-op task costs Postgres while a backlog is drained: bytes of WAL, commits, row versions left dead.

Right after a checkpoint, so full page images are part of it, for everybody. Dead versions are the rows updated and
deleted (``pg_stat_user_tables``), over all tables that a task's life writes to. Counted, not timed, so two rounds do;
and a peer is stopped after 12 s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tests.benchmarks import fleet
from tests.benchmarks.harness import PGFLEET, Bench, Result
from tests.benchmarks.peers import Peer
from tests.benchmarks.server import Database

SECONDS_MAX = 12.0
KINDS = {"WAL": "bytes/task", "commits": "/task", "dead row versions": "/task"}
_COUNTERS = """
select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8,
       (select xact_commit from pg_stat_database where datname = current_database()),
       (select coalesce(sum(n_tup_upd + n_tup_del), 0) from pg_stat_user_tables
        where schemaname || '.' || relname = any (%s))
"""


@dataclass(frozen=True)
class Counters:
    wal: float
    commits: float
    dead: float


def run(bench: Bench) -> Result:
    result, n = Result(), bench.size(100_000, 5_000)
    costs: dict[str, dict[str, list[float]]] = {kind: {} for kind in KINDS}

    def note(who: str, before: Counters, after: Counters, settled: int, looks: int = 0) -> float:
        if not settled:
            raise fleet.BenchmarkFailed("nothing was settled")
        wal = (after.wal - before.wal) / settled
        costs["WAL"].setdefault(who, []).append(wal)
        costs["commits"].setdefault(who, []).append((after.commits - before.commits - looks) / settled)
        costs["dead row versions"].setdefault(who, []).append((after.dead - before.dead) / settled)
        return wal

    def ours() -> float:
        with fleet.standing(bench.server, n) as (database, last):
            tables = ["public.tasks", "public.workers"]
            before = _counters(database, tables)
            drained = fleet.drain(database, last)
            return note(PGFLEET, before, _counters(database, tables), drained.n, drained.looks)

    def theirs(peer: Peer) -> float:
        with bench.peer_database(peer, n) as database:
            tables = bench.peer(peer, "tables", database, 60)["tables"]
            before = _counters(database, tables)
            drained = bench.peer(peer, "drain", database, SECONDS_MAX + 120, n=n, seconds_max=SECONDS_MAX)
            return note(peer.name, before, _counters(database, tables), drained["n"])

    contestants: dict[str, Callable[[], float | None]] = {PGFLEET: ours}
    contestants |= {peer.name: partial(theirs, peer) for peer in bench.peers}
    bench.turns(contestants, "cost [WAL bytes]", most=2)
    for peer in bench.peers:
        if peer.name not in costs["WAL"]:
            result.miss(peer.name, "WAL", bench.why(peer.name))
    for kind, unit in KINDS.items():
        for who, values in costs[kind].items():
            result.add(who, kind, values, unit)
        result.bars(kind, unit, costs[kind], log=kind != "dead row versions")
    return result


def _counters(database: Database, tables: list[str]) -> Counters:
    """Read once the backends that were counting have gone: each reports what it had left when it ends."""
    with database.connect() as conn:
        row = conn.execute(_COUNTERS, [tables]).fetchone()
    assert row is not None
    return Counters(*map(float, row))
