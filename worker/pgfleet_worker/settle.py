"""The settler: records what became of the tasks, in batches, each task with its own fence and result.

One thread, one connection. While a batch is on its way to the disk the next one gathers, so the batches grow with the
load and a lone task is settled at once. Without Postgres the outcomes wait, and are delivered afterwards: still fenced.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import groupby
from operator import attrgetter
from typing import TypeVar

import psycopg

from pgfleet import db, sql
from pgfleet.errors import DatabaseAway, LostTask
from pgfleet.log import Logger
from pgfleet.settings import Settings
from pgfleet_worker.backoff import Backoff
from pgfleet_worker.outcome import Failure, Outcome, Published, Released, Success, of_exception

#: The most outcomes in one statement. 500 to 2,000 measured within 3 % of each other.
BATCH = 1000

Batched = TypeVar("Batched", Success, Released)
_WORKER = attrgetter("worker")


class Settler:
    """Takes outcomes from any thread; ``on_settled(count)`` is told of each batch that Postgres has acknowledged."""

    def __init__(self, settings: Settings, log: Logger, on_settled: Callable[[int], None]) -> None:
        self._settings = settings
        self._log = log
        self._on_settled = on_settled
        self._outcomes: deque[Outcome] = deque()
        self._idle = False
        self._bell = threading.Lock()
        self._bell.acquire()
        self._closing = False
        self._conn: db.Connection | None = None
        self._queries = sql.queries("workers")
        self._thread = threading.Thread(target=self._work, name="settler", daemon=True)
        self._thread.start()

    def put(self, outcome: Outcome) -> None:
        """Have ``outcome`` recorded soon."""
        self._outcomes.append(outcome)
        if self._idle:
            self._ring()

    def close(self, timeout: float) -> bool:
        """Deliver what is left and end; False where that took longer than ``timeout`` seconds."""
        self._closing = True
        self._ring()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _ring(self) -> None:
        # Two who ring at once find one ear: releasing a lock that is free is the only way this can fail.
        self._idle = False
        try:
            self._bell.release()
        except RuntimeError:
            return

    def _work(self) -> None:
        while True:
            batch = self._gather()
            if batch:
                self._deliver(batch)
                continue
            if self._closing:
                break
            self._idle = True
            if not self._outcomes and not self._closing:
                self._bell.acquire()
            self._idle = False
        if self._conn is not None:
            self._conn.close()

    def _gather(self) -> list[Outcome]:
        outcomes = self._outcomes
        batch: list[Outcome] = []
        try:
            while len(batch) < BATCH:
                batch.append(outcomes.popleft())
        except IndexError:
            pass
        return batch

    def _deliver(self, batch: list[Outcome]) -> None:
        """Record ``batch``, however often Postgres goes away meanwhile: all of it may be said twice without harm."""
        waiting = Backoff()
        successes = [o for o in batch if type(o) is Success]
        released = [o for o in batch if type(o) is Released]
        others = [o for o in batch if type(o) is not Success and type(o) is not Released]
        while successes or released or others:
            try:
                conn = self._connection()
                if successes:
                    self._by_worker(conn, successes, self._finish)
                    self._on_settled(len(successes))
                    successes = []
                if released:
                    self._by_worker(conn, released, self._release)
                    self._on_settled(len(released))
                    released = []
                while others:
                    self._settle(conn, others[-1])
                    others.pop()
                    self._on_settled(1)
            except (psycopg.Error, DatabaseAway) as error:
                # Whatever it is (Postgres away, its disk full, a deadlock): the work is done and must not be forgotten.
                left = len(successes) + len(released) + len(others)
                pause = waiting.next()
                self._log.warning("settle.waiting", outcomes=left, error=str(error), pause=round(pause, 3))
                time.sleep(pause)

    def _connection(self) -> db.Connection:
        if self._conn is None or self._conn.closed:
            self._conn = db.connect(self._settings, "pgfleet settle")
        return self._conn

    def _by_worker(
        self, conn: db.Connection, outcomes: list[Batched], settle: Callable[[db.Connection, str, list[Batched]], None]
    ) -> None:
        if len({o[2] for o in outcomes}) == 1:  # more than one worker id only after a lease was lost
            settle(conn, outcomes[0].worker, outcomes)
            return
        for worker, group in groupby(sorted(outcomes, key=_WORKER), _WORKER):
            settle(conn, worker, list(group))

    def _release(self, conn: db.Connection, worker: str, outcomes: list[Released]) -> None:
        ids, attempts = [o.id for o in outcomes], [o.attempt for o in outcomes]
        row = conn.execute(self._queries["release"], (worker, ids, attempts)).fetchone()
        self._log.info("task.released", worker=worker, tasks=len(ids), held=row and row[0])

    def _finish(self, conn: db.Connection, worker: str, outcomes: list[Success]) -> None:
        # Array literals: psycopg's list dumper takes 4 times as long. No results at all: null, which unnest pads.
        ids = f"{{{','.join([str(o[0]) for o in outcomes])}}}"
        attempts = f"{{{','.join([str(o[1]) for o in outcomes])}}}"
        results = [o.result for o in outcomes] if any(o[3] is not None for o in outcomes) else None
        row = conn.execute(self._queries["finish"], (worker, ids, attempts, results), prepare=True).fetchone()
        for id in row[0] if row else ():
            self._log.warning("task.lost", task=id, worker=worker, outcome="success")

    def _settle(self, conn: db.Connection, outcome: Outcome) -> None:
        fence = {"worker": outcome.worker, "id": outcome.id, "attempt": outcome.attempt}
        log = self._log.bind(task=outcome.id, attempt=outcome.attempt, worker=outcome.worker)
        try:
            match outcome:
                case Published(export=export):
                    db.call(
                        conn,
                        self._queries["finish_export"],
                        **fence,
                        result=json.dumps(export.result()),
                        filename=export.filename,
                        owner_id=export.owner_id,
                        format=export.format,
                        bytes=export.bytes,
                        sha256=export.sha256,
                    )
                    log.info("task.published", filename=export.filename, rows=export.rows, bytes=export.bytes)
                case Failure():
                    row = db.call(
                        conn,
                        self._queries["fail"],
                        **fence,
                        error=outcome.error,
                        error_detail=outcome.detail,
                        give_up=outcome.give_up,
                        retry_in=outcome.retry_in,
                    ).fetchone()
                    log.warning("task.failed", status=row and row[0], run_at=row and row[1], error=outcome.error)
                case Success() | Released():
                    raise TypeError("settled in batches")
        except LostTask:
            log.warning("task.lost", outcome=type(outcome).__name__.lower())
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            # Something in it that the tables refuse: the task has failed, and its operators see why.
            if isinstance(outcome, Failure):
                raise
            self._settle(conn, of_exception(outcome.id, outcome.attempt, outcome.worker, error))
