"""pgqueuer 1.6.0 with its asyncpg or its psycopg driver (`--variant`).

Durability `durable` (the default), `autovac` applied, a larger batch_size for short jobs, a connection of its own for
each queue manager: https://pgqueuer.readthedocs.io/en/latest/guides/performance-tuning/ ; several managers in one
process on uvloop are how its own benchmark runs: https://github.com/janbjorge/pgqueuer/blob/main/tools/benchmark.py .

Tried: batch_size 10 (its benchmark's) with 5 managers, 100, 500, 1000, 2000 with one, 500 with two: the last was the
fastest with either driver. `max_concurrent_tasks` caps the claim in SQL, and a capped worker sleeps 100 ms whenever it
is full; a semaphore in the handler is faster and serves for `--concurrency`.
The psycopg driver waits for notifications on the connection that it claims with, for up to a second at a time; that
shows in `latency`.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, ClassVar

from _protocol import Peer, Settings, main
from pgqueuer.core.applications import PgQueuer
from pgqueuer.core.logconfig import logger
from pgqueuer.queries import Queries

NAME = "noop"


class PgQueuerPeer(Peer):
    tuned: ClassVar[Settings] = {"managers": 2, "batch_size": 500, "bulk": 20_000}
    unfinished = "SELECT count(*) FROM pgqueuer WHERE status IN ('queued', 'picked')"
    pending = "SELECT 1 FROM pgqueuer WHERE status IN ('queued', 'picked') LIMIT 1"
    tables = ("public.pgqueuer", "public.pgqueuer_log", "public.pgqueuer_statistics")

    def __init__(self, dsn: str, settings: Settings, driver: str) -> None:
        super().__init__(dsn, settings)
        self.driver = driver

    async def queries(self) -> Queries:
        logger.setLevel("ERROR")
        if self.driver == "asyncpg":
            import asyncpg
            from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver

            p = self.parameters
            return Queries(
                AsyncpgDriver(
                    await asyncpg.connect(
                        host=p.get("host"),
                        port=p.get("port"),
                        user=p.get("user"),
                        password=p.get("password"),
                        database=p.get("dbname"),
                    )
                )
            )
        import psycopg
        from pgqueuer.adapters.drivers.psycopg import PsycopgDriver

        return Queries(PsycopgDriver(await psycopg.AsyncConnection.connect(self.dsn, autocommit=True)))

    async def setup(self) -> None:
        queries = await self.queries()
        await queries.install()
        await queries.optimize_autovacuum()

    async def enqueue(self, n: int) -> float:
        queries = await self.queries()
        start = time.perf_counter()
        bulk = int(self.settings["bulk"])
        for at in range(0, n, bulk):
            size = min(bulk, n - at)
            await queries.enqueue([NAME] * size, [None] * size, [0] * size)
        return time.perf_counter() - start

    async def start(self, handle: Callable[[], Awaitable[None]], concurrency: int, task_ms: float) -> object:
        batch_size = int(self.settings["batch_size"])
        runs: list[Any] = []
        gate = asyncio.Semaphore(concurrency) if concurrency else None
        for _ in range(int(self.settings["managers"])):
            pgq = PgQueuer((await self.queries()).driver)

            @pgq.entrypoint(NAME)
            async def noop(job: Any) -> None:
                if gate is None:
                    await handle()
                else:
                    async with gate:
                        await handle()

            runs.append(asyncio.create_task(pgq.run(batch_size=batch_size, dequeue_timeout=timedelta(seconds=30))))
        return runs

    async def creator(self, clients: int) -> list[Callable[[], Awaitable[object]]]:
        def create(queries: Queries) -> Callable[[], Awaitable[object]]:
            return lambda: queries.enqueue(NAME, None)

        return [create(await self.queries()) for _ in range(clients)]


def make(args: argparse.Namespace, settings: Settings) -> PgQueuerPeer:
    return PgQueuerPeer(args.dsn, settings, args.variant or "asyncpg")


if __name__ == "__main__":
    main(make, "asyncpg", "psycopg")
