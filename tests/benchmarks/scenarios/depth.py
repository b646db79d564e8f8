"""A claim of 100 at backlogs of 10 thousand, 1 and 10 million: from the front and behind a watermark.

The databases stand side by side and take turns, claim by claim, so that what else the machine does hits all alike. And
each round begins with as many dead entries before the queue's front at every depth: none. An ordinary VACUUM leaves them in the
large queue's index and takes them from the small one's; the rounds before had left 30,000 there, which took 0.5 ms a look.
"""

from __future__ import annotations

import time
import uuid
from contextlib import ExitStack
from typing import Any

import psycopg

from pgfleet import sql
from tests.benchmarks import fleet
from tests.benchmarks.harness import PGFLEET, Bench, Result, percentile
from tests.benchmarks.server import Database

QUANTITY, WARM_UP = 100, 20

_BACKLOG = "insert into tasks (type, created_by) select 'noop', 0 from generate_series(1, %s)"


def run(bench: Bench) -> Result:
    depths = [5_000, 20_000] if bench.quick else [10_000, 1_000_000, 10_000_000]
    # 10,000 in the smallest queue: no more claims than leave it deep.
    claims = 20 if bench.quick else 40
    rounds = 1 if bench.quick else max(5, bench.rounds(5))
    result = Result()
    with ExitStack() as stack:
        queues = {}
        for depth in depths:
            bench.say(f"depth: a backlog of {depth:,}")
            queues[depth] = Queue(stack.enter_context(bench.server.database()), depth)
        for way in ("lanes", "front"):
            medians: dict[int, list[float]] = {depth: [] for depth in depths}
            taken: dict[int, list[float]] = {depth: [] for depth in depths}
            for _ in range(rounds):
                for queue in queues.values():
                    queue.refill()
                for turn in range(WARM_UP + claims):
                    for depth, queue in queues.items():
                        milliseconds = queue.claim(way)
                        if turn >= WARM_UP:
                            taken[depth].append(milliseconds)
                for depth in depths:
                    medians[depth].append(percentile(taken[depth][-claims:], 0.5))
            middle = {
                depth: result.add(PGFLEET, f"claim of {QUANTITY}, {way}, backlog {depth:,}", medians[depth], "ms")
                for depth in depths
            }
            ratio = max(middle.values()) / min(middle.values())
            metric = f"slowest / fastest depth, {way}"
            result.add(PGFLEET, metric, ratio, "×", target="≤ 1.3", reached=lambda v: v <= 1.3)
            result.bars(f"claim of {QUANTITY}, {way}", "ms", {f"{depth:,}": medians[depth] for depth in depths})
    return result


class Queue:
    """A backlog in a database of its own, and a connection that claims as the worker's does."""

    def __init__(self, database: Database, depth: int) -> None:
        self._database, self._depth = database, depth
        fleet.register(database, "noop")
        with database.connect() as conn:
            conn.execute(_BACKLOG, [depth])
        self._worker = f"depth:{uuid.uuid4()}"
        self._queries = sql.queries("workers")
        self._conn = database.connect(options="-csynchronous_commit=off")
        self._conn.execute("select register_worker(%s, 'bench', '{noop}', 1, '1 hour', 'bench')", [self._worker])
        self._after = 0

    def refill(self) -> None:
        """As deep as it was, the claimed settled, the tables tidy."""
        with self._database.connect() as conn:
            conn.execute("update tasks set status = 'success', updated_on = now() where status = 'started'")
            row = conn.execute("select count(*) from tasks where status = 'fresh'").fetchone()
            conn.execute(_BACKLOG, [self._depth - (row[0] if row else 0)])
        self._database.settle_down(indexes=True)

    def claim(self, way: str) -> float:
        """Claim, really, and answer the milliseconds."""
        arguments: tuple[Any, ...] = (self._worker, ["noop"], QUANTITY)
        if way == "lanes":
            arguments = (*arguments, ["noop"], [0], [self._after])
        began = time.perf_counter()
        rows = self._run(self._conn, self._queries[f"claim_{way}"], arguments)
        milliseconds = (time.perf_counter() - began) * 1000
        if len(rows) != QUANTITY:
            raise fleet.BenchmarkFailed(f"a claim of {QUANTITY} brought {len(rows)}")
        self._after = rows[-1][0]
        return milliseconds

    @staticmethod
    def _run(conn: psycopg.Connection[Any], query: Any, arguments: tuple[Any, ...]) -> list[Any]:
        return psycopg.RawCursor(conn).execute(query, arguments, prepare=True, binary=True).fetchall()
