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
from pgfleet_worker.outcome import CalledOff, Failure, Outcome, Published, Released, Success
from pgfleet_worker.part import Part

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
        self._tells = settings.log_level == "debug"
        self._on_settled = on_settled
        self._on_waiting = on_waiting
        self._outcomes: deque[Outcome] = deque()
        self._idle = False
        self._bell = threading.Lock()
        self._bell.acquire()
        self._closing = False
        self._conn: db.Connection | None = None
        self._queries = sql.queries("workers")
        self._thread = Part(target=self._work, name="settler")
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
                if type(outcome) is Success and outcome[4] is not None:
                    size += len(outcome[4])
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
                self._bound(group[0]).error("settle.refused", error=str(error))
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
        elif isinstance(first, Released):
            self._release(conn, first, group)
        elif not isinstance(first, Success):
            self._settle(conn, first)

    def _connection(self) -> db.Connection:
        if self._conn is None or self._conn.closed:
            self._conn = db.connect(self._settings, "pgfleet settle", engine=True)
        return self._conn

    def _release(self, conn: db.Connection, first: Released, outcomes: list[Outcome]) -> None:
        ids, attempts = [o.id for o in outcomes], [o.attempt for o in outcomes]
        delay = timedelta(seconds=first.delay)
        row = conn.execute(self._queries["release"], (first.worker, ids, attempts, delay)).fetchone()
        begun = first.reason != ""
        if not begun:
            self._log.info("worker.returned", worker=first.worker, tasks=len(ids), held=row and row[0])
        if begun or self._tells:
            for outcome in outcomes:
                log = self._bound(outcome)
                if row and not row[0]:
                    log.warning("task.lost", outcome="released")
                else:
                    (log.info if begun else log.debug)("task.released", delay=first.delay, reason=first.reason)
        if first.delay:
            self._on_waiting(first.delay)

    def _finish(self, conn: db.Connection, worker: str, outcomes: list[Success]) -> None:
        # Array literals: psycopg's list dumper takes 4 times as long. Nothing to tell at all: null, which unnest pads.
        ids = f"{{{','.join([str(o[0]) for o in outcomes])}}}"
        attempts = f"{{{','.join([str(o[1]) for o in outcomes])}}}"
        told: tuple[list[Any] | None, ...] = (None, None, None)
        if any(o[4] is not None or o[5] is not None for o in outcomes):
            told = [o[4] for o in outcomes], [o[5] for o in outcomes], [o[6] for o in outcomes]
        row = conn.execute(self._queries["finish"], (worker, ids, attempts, *told), prepare=True).fetchone()
        lost = frozenset(row[0] if row else ())
        if lost or self._tells:
            for outcome in outcomes:
                if outcome.id in lost:
                    self._bound(outcome).warning("task.lost", outcome="success")
                elif self._tells:
                    self._bound(outcome).debug("task.succeeded", cpu_seconds=outcome.cpu_seconds)

    def _bound(self, outcome: Outcome) -> Logger:
        return self._log.bind(task=outcome.id, type=outcome.type, attempt=outcome.attempt, worker=outcome.worker)

    def _settle(self, conn: db.Connection, outcome: Published | Failure | CalledOff) -> None:
        log = self._bound(outcome)
        told = {
            "worker": outcome.worker,
            "id": outcome.id,
            "attempt": outcome.attempt,
            "cpu_seconds": outcome.cpu_seconds,
            "peak_memory": outcome.peak_memory,
        }
        try:
            match outcome:
                case Published(export=export):
                    db.call(
                        conn,
                        self._queries["finish_export"],
                        **told,
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
                        **told,
                        error=outcome.error,
                        error_detail=outcome.detail,
                        give_up=outcome.give_up,
                        retry_in=outcome.retry_in,
                    ).fetchone()
                    status, run_at, waits = row or (None, None, None)
                    if status == "cancelled":
                        log.info("task.cancelled", error=outcome.error)
                    else:
                        log.warning("task.failed", status=status, run_at=run_at, error=outcome.error)
                    if status == "waiting" and waits is not None:
                        self._on_waiting(waits)
                case CalledOff():
                    db.call(conn, self._queries["end_cancelled"], **told)
                    log.info("task.cancelled")
        except LostTask:
            log.warning("task.lost", outcome=type(outcome).__name__.lower())
            if isinstance(outcome, Published):
                self._withdraw(conn, outcome.export.filename, log)

    def _withdraw(self, conn: db.Connection, filename: str, log: Logger) -> None:
        """The file of an attempt that lost its task stands under its final name: nobody will ever be told of it."""
        if db.call(conn, sql.queries("exports")["by_filename"], filename=filename).fetchone() is not None:
            return
        try:
            (self._settings.export_dir / filename).unlink(missing_ok=True)
        except OSError as error:  # the sweep for files without a row will find it
            log.warning("file.not_withdrawn", filename=filename, error=error.strerror)
        else:
            log.warning("file.withdrawn", filename=filename)


def _groups(batch: list[Outcome]) -> Iterator[list[Outcome]]:
    """What one statement records: successes of a worker, releases of a worker, anything else alone."""
    together: dict[tuple[Any, ...], list[Outcome]] = {}
    for outcome in batch:
        if type(outcome) is Success:
            key: tuple[Any, ...] = (Success, outcome[2])
        elif type(outcome) is Released:
            key = (Released, outcome.worker, outcome.delay, outcome.reason)
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
    fence = outcome.id, outcome.attempt, outcome.worker, outcome.type
    if isinstance(outcome, Released):
        return None
    if isinstance(outcome, CalledOff):  # nobody has asked for that, says the row
        return Released(*fence, reason="called off, but nobody has asked for that")
    if isinstance(outcome, Failure) and outcome.error == UNRECORDABLE:
        return Released(*fence, 60.0, "its outcome can't be recorded")
    return Failure(*fence, UNRECORDABLE, ascii(str(error))[:2000], give_up=True)
