"""What every Python adapter shares: the command line, the clock and the one JSON line at the end.

An adapter is a `Peer` with its own `setup`, `enqueue`, `start`, `create`; this module measures it. It runs inside the
peers' environment, so it imports nothing of pgfleet, and nothing but psycopg beside the standard library.
"""

from __future__ import annotations

import abc
import argparse
import asyncio
import faulthandler
import json
import logging
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar
from urllib.parse import quote

import psycopg
import uvloop
from psycopg.conninfo import conninfo_to_dict

# Without a handler's own wait nothing else paces the checks: how often a finished counter asks the database again, and
# how long a silent worker may be silent before the database is asked whether others have finished the work.
SETTLE_POLL = 0.003
SILENCE = 0.5
# Between two tasks of `latency`, so that the worker has settled the last one and sleeps again.
GAP = 0.015


Settings = dict[str, int | float | str]


class Work:
    """The handlers of one run: counts them, times the first, sleeps for `--task-ms`, caps them at `--concurrency`."""

    def __init__(self, n: int, concurrency: int, task_ms: float) -> None:
        self.n = n
        self.concurrency = concurrency
        self.pause = task_ms / 1000
        self.handled = 0
        self.running = 0
        self.most_running = 0
        self.first: float | None = None
        self.all_handled = asyncio.Event()

    async def handle(self) -> None:
        if self.first is None:
            self.first = time.perf_counter()
        if self.pause:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            await asyncio.sleep(self.pause)
            self.running -= 1
        self.handled += 1
        if self.handled >= self.n:
            self.all_handled.set()


class Latency:
    """The handler of `latency`: notes when it started."""

    def __init__(self) -> None:
        self.at = 0.0
        self.started = asyncio.Event()

    async def handle(self) -> None:
        self.at = time.perf_counter()
        self.started.set()


class Peer(abc.ABC):
    """One peer. `tuned` holds its chosen settings; `--set name=value` overrides one for an experiment."""

    tuned: ClassVar[Settings]
    unfinished: str
    """SQL that counts the tasks which are not yet settled in the database."""
    pending: str
    """SQL that returns a row while any such task is left."""
    tables: tuple[str, ...]
    """LIKE patterns of schema.table: whatever a task's life writes to."""

    def __init__(self, dsn: str, settings: Settings) -> None:
        self.dsn = dsn
        self.settings: Settings = {**self.tuned, **settings}

    @property
    def parameters(self) -> dict[str, Any]:
        return conninfo_to_dict(self.dsn)

    @property
    def url(self) -> str:
        """The DSN for drivers that read only URLs and refuse one without a host."""
        p = self.parameters
        auth = quote(p.get("user", ""), safe="") + (f":{quote(p['password'], safe='')}" if p.get("password") else "")
        host, port = p.get("host", "localhost"), p.get("port", "5432")
        if host.startswith("/"):
            return f"postgresql://{auth}@localhost:{port}/{p['dbname']}?host={quote(host, safe='/')}"
        return f"postgresql://{auth}@{host}:{port}/{p['dbname']}"

    @abc.abstractmethod
    async def setup(self) -> None: ...

    @abc.abstractmethod
    async def enqueue(self, n: int) -> float:
        """Create n no-op tasks; answer the seconds without imports and connections."""

    @abc.abstractmethod
    async def start(self, handle: Callable[[], Awaitable[None]], concurrency: int, task_ms: float) -> object:
        """Connect and start one worker whose handlers await `handle`. concurrency 0: the peer's own fastest."""

    @abc.abstractmethod
    async def creator(self, clients: int) -> list[Callable[[], Awaitable[object]]]:
        """One function a client, each creating one task on a connection of its own."""


async def _count(monitor: psycopg.AsyncConnection[Any], query: str) -> int:
    row = await (await monitor.execute(query)).fetchone()
    return int(row[0]) if row else 0


async def _drain(peer: Peer, args: argparse.Namespace) -> dict[str, object]:
    work = Work(args.n, args.concurrency, args.task_ms)
    monitor = await psycopg.AsyncConnection.connect(peer.dsn, autocommit=True)
    before = await _count(monitor, peer.unfinished)
    asked = time.perf_counter()
    keep = await peer.start(work.handle, args.concurrency, args.task_ms)
    deadline = asked + args.seconds_max if args.seconds_max else float("inf")
    handled, complete = -1, False
    while True:
        try:
            await asyncio.wait_for(work.all_handled.wait(), min(SILENCE, max(0.0, deadline - time.perf_counter())))
        except TimeoutError:
            silent, handled = handled == work.handled, work.handled
        else:
            silent = True
        # Finished handlers are not yet settled tasks: the clock stops when the database holds no unsettled one.
        if silent and not await _count(monitor, f"SELECT count(*) FROM ({peer.pending}) AS p"):
            complete = True
            break
        if time.perf_counter() >= deadline:
            break
        if work.all_handled.is_set():
            await asyncio.sleep(SETTLE_POLL)
    ended = time.perf_counter()
    left = await _count(monitor, peer.unfinished)
    del keep
    first = work.first if work.first is not None else ended
    seconds = ended - first if work.first is not None else ended - asked
    now = time.time()
    return {
        "n": before - left,
        "seconds": seconds,
        "complete": complete and left == 0,
        "handled": work.handled,
        "ready_seconds": first - asked,
        "started": now - (time.perf_counter() - first),
        "ended": now - (time.perf_counter() - ended),
        "most_running": work.most_running,
    }


async def _latency(peer: Peer, args: argparse.Namespace) -> dict[str, object]:
    latency = Latency()
    [create] = await peer.creator(1)
    keep = await peer.start(latency.handle, args.concurrency, 0)
    deadline = time.perf_counter() + args.seconds_max if args.seconds_max else float("inf")
    samples: list[float] = []
    await asyncio.sleep(1)
    warm_up = min(20, args.n // 10)
    while len(samples) < args.n + warm_up and time.perf_counter() < deadline:
        latency.started.clear()
        start = time.perf_counter()
        await create()
        await latency.started.wait()
        samples.append((latency.at - start) * 1000)
        await asyncio.sleep(GAP * random.uniform(0.7, 1.3))
    del keep
    samples = sorted(samples[warm_up:])
    if not samples:
        return {"n": 0, "p50_ms": None, "p99_ms": None, "mean_ms": None, "complete": False}
    return {
        "n": len(samples),
        "p50_ms": samples[len(samples) // 2],
        "p99_ms": samples[min(len(samples) - 1, int(len(samples) * 0.99))],
        "mean_ms": sum(samples) / len(samples),
        "max_ms": samples[-1],
        "complete": len(samples) == args.n,
    }


async def _create(peer: Peer, args: argparse.Namespace) -> dict[str, object]:
    creators = await peer.creator(args.clients)
    share = args.n // args.clients

    async def client(create: Callable[[], Awaitable[object]], times: int) -> None:
        for _ in range(times):
            await create()

    await asyncio.gather(*(client(create, 1) for create in creators))
    start = time.perf_counter()
    await asyncio.gather(*(client(create, share) for create in creators))
    seconds = time.perf_counter() - start
    n = share * args.clients
    return {"n": n, "seconds": seconds, "rate": n / seconds}


async def _tables(peer: Peer) -> list[str]:
    async with await psycopg.AsyncConnection.connect(peer.dsn, autocommit=True) as monitor:
        found = await monitor.execute(
            "SELECT schemaname || '.' || relname FROM pg_stat_user_tables"
            " WHERE schemaname || '.' || relname LIKE ANY (%s) ORDER BY 1",
            (list(peer.tables),),
        )
        return [name for (name,) in await found.fetchall()]


async def _run(peer: Peer, args: argparse.Namespace) -> dict[str, object]:
    match args.action:
        case "setup":
            start = time.perf_counter()
            await peer.setup()
            return {"seconds": time.perf_counter() - start}
        case "enqueue":
            seconds = await peer.enqueue(args.n)
            # What autovacuum would do within the minute; without statistics some peers' plans are not their own.
            async with await psycopg.AsyncConnection.connect(peer.dsn, autocommit=True) as monitor:
                await monitor.execute("ANALYZE")
            return {"n": args.n, "seconds": seconds}
        case "drain":
            return await _drain(peer, args)
        case "latency":
            return await _latency(peer, args)
        case "create":
            return await _create(peer, args)
        case _:
            return {"tables": await _tables(peer)}


def _setting(text: str) -> tuple[str, int | float | str]:
    name, _, value = text.partition("=")
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value


def main(make: Callable[[argparse.Namespace, Settings], Peer], *variants: str) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["setup", "enqueue", "drain", "latency", "create", "tables"])
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--variant", choices=variants or None)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=0)
    parser.add_argument("--task-ms", type=float, default=0)
    parser.add_argument("--seconds-max", type=float, default=0)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--set", action="append", type=_setting, default=[])
    args = parser.parse_args()
    # stdout carries the answer and nothing else; a peer that logs a line a task would be measured for its logging.
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    if args.seconds_max:
        # A worker that blocks its own event loop would never see the deadline: say where it stood, and end.
        faulthandler.dump_traceback_later(args.seconds_max + 30, exit=True)
    stdout = os.dup(1)
    os.dup2(2, 1)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        peer = make(args, dict(args.set))
        answer = runner.run(_run(peer, args))
        if args.action in ("drain", "latency"):
            answer["settings"] = peer.settings
        os.write(stdout, (json.dumps(answer) + "\n").encode())
        if args.action in ("drain", "latency"):
            # A worker's graceful stop is nobody's row here, and a collapsed peer takes minutes over it.
            os._exit(0)
