"""The settler: records what became of the tasks, in batches, each task with its own fence and result.

One thread, one connection. While a batch is on its way to the disk the next one gathers, so the batches grow with the
load and a lone task is settled at once. Without Postgres the outcomes wait, and are delivered afterwards: still fenced.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, cast

import psycopg

from pgfleet import db, sql
from pgfleet.errors import DatabaseAway, LostTask
from pgfleet.log import Logger
from pgfleet.settings import Settings
from pgfleet_worker.backoff import Backoff
from pgfleet_worker.outcome import Failure, Outcome, Published, Released, Success

#: The most outcomes in one statement. 500 to 2,000 measured within 3 % of each other.
BATCH = 1000

#: The most characters of results in one statement: Postgres takes no value over 1 GB.
BATCH_SIZE = 16 * 1024 * 1024

UNRECORDABLE = "The task's outcome could not be recorded; its operators see why."


class Settler:
    """Takes outcomes from any thread.

    ``on_settled(outcomes)`` is told of those that Postgres has acknowledged, ``on_waiting(seconds)`` of each failed task
    that is due again in so many seconds.
    """

    def __init__(
        self,
        settings: Settings,
        log: Logger,
        on_settled: Callable[[list[Outcome]], None],
        on_waiting: Callable[[float], None],
    ) -> None:
        self._settings = settings
        self._log = log
        self._on_settled = on_settled
        self._on_waiting = on_waiting
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
        size = 0
        try:
            while len(batch) < BATCH and size < BATCH_SIZE:
                outcome = outcomes.popleft()
                batch.append(outcome)
                if type(outcome) is Success and outcome[3] is not None:
                    size += len(outcome[3])
        except IndexError:
            pass
        return batch

    def _deliver(self, batch: list[Outcome]) -> None:
        """Record ``batch``, however often Postgres goes away meanwhile: all of it may be said twice without harm."""
        waiting = Backoff()
        groups = deque(_groups(batch))
        while groups:
            group = groups[0]
            try:
                self._record(group)
            except Exception as error:
                if _may_pass(error):
                    pause = waiting.next()
                    outcomes = sum(len(g) for g in groups)
                    self._log.warning("settle.waiting", outcomes=outcomes, error=str(error), pause=round(pause, 3))
                    time.sleep(pause)
                    continue
                groups.popleft()
                if len(group) > 1:  # one of them is at fault: each alone, so that it fails alone
                    groups.extendleft([outcome] for outcome in group)
                    continue
                self._log.error("settle.refused", task=group[0].id, attempt=group[0].attempt, error=str(error))
                instead = _instead(group[0], error)
                if instead is not None:
                    groups.appendleft([instead])
                    continue
            else:
                groups.popleft()
            self._on_settled(group)

    def _record(self, group: list[Outcome]) -> None:
        conn, first = self._connection(), group[0]
        if type(first) is Success:
            self._finish(conn, first.worker, cast("list[Success]", group))
        elif type(first) is Released:
            self._release(conn, first, group)
        else:
            self._settle(conn, first)

    def _connection(self) -> db.Connection:
        if self._conn is None or self._conn.closed:
            self._conn = db.connect(self._settings, "pgfleet settle", engine=True)
        return self._conn

    def _release(self, conn: db.Connection, first: Released, outcomes: list[Outcome]) -> None:
        ids, attempts = [o.id for o in outcomes], [o.attempt for o in outcomes]
        delay = timedelta(seconds=first.delay)
        row = conn.execute(self._queries["release"], (first.worker, ids, attempts, delay)).fetchone()
        self._log.info("task.released", worker=first.worker, tasks=len(ids), held=row and row[0])

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
                    status, run_at, waits = row or (None, None, None)
                    log.warning("task.failed", status=status, run_at=run_at, error=outcome.error)
                    if status == "waiting" and waits is not None:
                        self._on_waiting(waits)
                case _:
                    raise TypeError("recorded in groups")
        except LostTask:
            log.warning("task.lost", outcome=type(outcome).__name__.lower())


def _groups(batch: list[Outcome]) -> Iterator[list[Outcome]]:
    """What one statement records: successes of a worker, releases of a worker, anything else alone."""
    together: dict[tuple[Any, ...], list[Outcome]] = {}
    for outcome in batch:
        if type(outcome) is Success:
            key: tuple[Any, ...] = (Success, outcome[2])
        elif type(outcome) is Released:
            key = (Released, outcome.worker, outcome.delay)
        else:
            yield [outcome]
            continue
        group = together.get(key)
        if group is None:
            group = together[key] = []
        group.append(outcome)
    yield from together.values()


def _may_pass(error: Exception) -> bool:
    """May the same statement succeed later (Postgres away, its disk full, a right to be granted), or never?

    Never: a value that the tables refuse or the types can't hold, and anything that is not Postgres's error.
    """
    if isinstance(error, DatabaseAway):
        return True
    if not isinstance(error, psycopg.Error) or isinstance(error, psycopg.DataError | psycopg.IntegrityError):
        return False
    return (error.sqlstate or "")[:2] not in ("21", "22", "23", "54") and error.sqlstate not in ("42883", "42804")


def _instead(outcome: Outcome, error: Exception) -> Outcome | None:
    """What to record of an outcome that can't be recorded: a failure, in words that fit anywhere; then a release."""
    fence = outcome.id, outcome.attempt, outcome.worker
    if isinstance(outcome, Released):
        return None
    if isinstance(outcome, Failure) and outcome.error == UNRECORDABLE:
        return Released(*fence, delay=60.0)
    return Failure(*fence, UNRECORDABLE, ascii(str(error))[:2000], give_up=True, retry_in=None)
