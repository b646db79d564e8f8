"""procrastinate 3.10.0, async worker on psycopg 3.

Bulk creation: `batch_defer_async` (https://procrastinate.readthedocs.io/en/stable/howto/basics/batch_defer.html).
Worker: `concurrency` with async tasks, LISTEN/NOTIFY on, and `delete_jobs`
(https://procrastinate.readthedocs.io/en/stable/howto/production/concurrency.html,
https://procrastinate.readthedocs.io/en/stable/howto/production/delete_finished_jobs.html).

Tried: concurrency 10, 30, 100 with pools of 5, 10, 20: the worker fetches one job at a time, so more only contends.
`delete_jobs=successful` against `never`: 3 % faster at 4,000 tasks, more with a longer history; both are durable.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import ClassVar

import procrastinate
from _protocol import Peer, Settings, main

NAME = "noop"


class Procrastinate(Peer):
    tuned: ClassVar[Settings] = {"concurrency": 10, "pool": 5, "delete_jobs": "successful", "bulk": 5000}
    unfinished = "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"
    pending = "SELECT 1 FROM procrastinate_jobs WHERE status IN ('todo', 'doing') LIMIT 1"
    tables = ("public.procrastinate_jobs", "public.procrastinate_events", "public.procrastinate_workers")

    def app(self, pool: int) -> procrastinate.App:
        logging.getLogger("procrastinate").setLevel(logging.ERROR)
        connector = procrastinate.PsycopgConnector(conninfo=self.dsn, min_size=pool, max_size=pool)
        return procrastinate.App(connector=connector)

    async def setup(self) -> None:
        async with self.app(1).open_async() as app:
            await app.schema_manager.apply_schema_async()

    async def enqueue(self, n: int) -> float:
        async with self.app(1).open_async() as app:
            task = app.configure_task(NAME, allow_unknown=True)
            start = time.perf_counter()
            bulk = int(self.settings["bulk"])
            for at in range(0, n, bulk):
                await task.batch_defer_async(*[{} for _ in range(min(bulk, n - at))])
            return time.perf_counter() - start

    async def start(self, handle: Callable[[], Awaitable[None]], concurrency: int, task_ms: float) -> object:
        app = self.app(int(self.settings["pool"]))

        @app.task(name=NAME)
        async def noop() -> None:
            await handle()

        await app.open_async()
        return asyncio.create_task(
            app.run_worker_async(
                concurrency=concurrency or int(self.settings["concurrency"]),
                delete_jobs=str(self.settings["delete_jobs"]),
                install_signal_handlers=False,
            )
        )

    async def creator(self, clients: int) -> list[Callable[[], Awaitable[object]]]:
        app = self.app(clients)
        await app.open_async()
        task = app.configure_task(NAME, allow_unknown=True)
        return [task.defer_async] * clients


if __name__ == "__main__":
    main(lambda args, settings: Procrastinate(args.dsn, settings))
