"""awa-pg 0.6.9: a Rust runtime that calls Python handlers.

Queue storage, its vacuum-aware engine
(https://github.com/hardbyte/awa/blob/main/docs/adr/019-queue-storage-redesign.md),
installed as its own benchmark installs it (https://github.com/hardbyte/awa/tree/main/benchmarks/portable), COPY for
creation (https://pypi.org/project/awa-pg/), a poll interval of 50 ms behind LISTEN/NOTIFY.
It claims by a cursor over append-only rows: no job row is ever locked or updated.

Tried: 50, 200, 500, 1000 workers, 0, 1, 2, 4 claimers (its docs: "benchmark 2 or 4"), pools of 10, 20, 40.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import awa
from _protocol import Peer, Settings, main

QUEUE = "bench"


@dataclass
class Noop:
    pass


class Awa(Peer):
    tuned: ClassVar[Settings] = {
        "max_workers": 500,
        "claimers": 1,
        "claim_batch_size": 512,
        "poll_interval_ms": 50,
        "connections": 20,
        "bulk": 20_000,
    }
    # The view awa.jobs would say the same, but takes a second to do so.
    # Nothing is pruned before its day of retention is over.
    unfinished = """
        SELECT (SELECT coalesce(sum(awa.sequence_next_value(seq_name) - 1), 0)
                  FROM awa.queue_enqueue_heads WHERE queue = 'bench')
             - (SELECT coalesce(sum(completed_count), 0) FROM awa.receipt_completion_batches WHERE queue = 'bench')
             - (SELECT count(*) FROM awa.done_entries WHERE queue = 'bench')"""
    pending = f"SELECT 1 FROM ({unfinished}) AS left_over (n) WHERE n > 0"
    tables = ("awa.%",)

    def client(self, connections: int) -> awa.AsyncClient:
        return awa.AsyncClient(self.url, max_connections=connections)

    async def setup(self) -> None:
        async with self.client(2) as client:
            await client.migrate()
            await client.install_queue_storage()

    async def enqueue(self, n: int) -> float:
        async with self.client(2) as client:
            bulk = int(self.settings["bulk"])
            start = time.perf_counter()
            for at in range(0, n, bulk):
                await client.enqueue_many_copy([Noop()] * min(bulk, n - at), queue=QUEUE)
            return time.perf_counter() - start

    async def start(self, handle: Callable[[], Awaitable[None]], concurrency: int, task_ms: float) -> object:
        client = self.client(int(self.settings["connections"]))

        @client.task(Noop, queue=QUEUE)
        async def noop(job: Any) -> None:
            await handle()

        queue: dict[str, Any] = {"name": QUEUE, "max_workers": concurrency or int(self.settings["max_workers"])}
        for key in ("claimers", "claim_batch_size"):
            if self.settings[key]:
                queue[key] = int(self.settings[key])
        await client.start([queue], poll_interval_ms=int(self.settings["poll_interval_ms"]))
        return client

    async def creator(self, clients: int) -> list[Callable[[], Awaitable[object]]]:
        client = self.client(clients)
        return [lambda: client.insert(Noop(), queue=QUEUE)] * clients


if __name__ == "__main__":
    main(lambda args, settings: Awa(args.dsn, settings))
