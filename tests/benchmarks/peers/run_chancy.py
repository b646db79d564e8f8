"""chancy 0.26.0 with its asyncio executor, the one for many short jobs.

Queue settings, `eager_polling` among them: https://tkte.ch/chancy/chancy.queue.html ; how often settled jobs are sent,
"controlled by setting the send_outgoing_interval attribute on the worker": https://tkte.ch/chancy/chancy.worker.html .

Tried: concurrency 100, 300, 1000, 5000; without eager polling a third of the rate; updates sent every 10, 50 and 200 ms
instead of every second.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import ClassVar

from _protocol import Peer, Settings, main
from chancy import Chancy, Queue, Worker, job

QUEUE = "bench"
_handle: Callable[[], Awaitable[None]]


@job(queue=QUEUE)
async def noop() -> None:
    await _handle()


class ChancyPeer(Peer):
    tuned: ClassVar[Settings] = {
        "concurrency": 1000,
        "eager_polling": 1,
        "polling_interval": 1,
        "outgoing_interval": 0.05,
        "pool": 10,
        "bulk": 1000,
    }
    unfinished = "SELECT count(*) FROM chancy_jobs WHERE state IN ('pending', 'running', 'retrying')"
    pending = "SELECT 1 FROM chancy_jobs WHERE state IN ('pending', 'running', 'retrying') LIMIT 1"
    tables = ("public.chancy_jobs", "public.chancy_workers", "public.chancy_metrics")

    def chancy(self, pool: int) -> Chancy:
        log = logging.getLogger("chancy")
        log.setLevel(logging.ERROR)
        return Chancy(self.dsn, max_connection_pool_size=pool, min_connection_pool_size=pool, log=log)

    async def setup(self) -> None:
        async with self.chancy(2) as chancy:
            await chancy.migrate()

    async def enqueue(self, n: int) -> float:
        async with self.chancy(1) as chancy:
            start = time.perf_counter()
            async for _ in chancy.push_many([noop.job] * n, batch_size=int(self.settings["bulk"])):
                pass
            return time.perf_counter() - start

    async def start(self, handle: Callable[[], Awaitable[None]], concurrency: int, task_ms: float) -> object:
        global _handle
        _handle = handle
        chancy = self.chancy(int(self.settings["pool"]))
        await chancy.__aenter__()
        await chancy.declare(
            Queue(
                QUEUE,
                concurrency=concurrency or int(self.settings["concurrency"]),
                executor=Chancy.Executor.Async,
                polling_interval=int(self.settings["polling_interval"]),
                eager_polling=bool(self.settings["eager_polling"]),
            ),
            upsert=True,
        )
        # Every worker also serves "default", by a pool of processes unless told otherwise, which would outlive ours.
        await chancy.declare(Queue("default", executor=Chancy.Executor.Async), upsert=True)
        worker = Worker(chancy, register_signal_handlers=False)
        worker.send_outgoing_interval = float(self.settings["outgoing_interval"])
        await worker.start()
        return worker

    async def creator(self, clients: int) -> list[Callable[[], Awaitable[object]]]:
        chancy = self.chancy(clients)
        await chancy.__aenter__()
        return [lambda: chancy.push(noop)] * clients


if __name__ == "__main__":
    # Jobs name their function by its import path: it must not be __main__'s.
    import run_chancy

    main(lambda args, settings: run_chancy.ChancyPeer(args.dsn, settings))
