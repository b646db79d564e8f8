"""The settler: records what became of the tasks, in batches, each task with its own fence and result.

One thread, one connection. While a batch is on its way to the disk the next one gathers, so the batches grow with the
load and a lone task is settled at once. Without Postgres the outcomes wait, and are delivered afterwards: still fenced.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from operator import itemgetter
from typing import Any, cast

from pgfleet import db, sql
from pgfleet.errors import LostTask
from pgfleet.log import Logger
from pgfleet.settings import Settings
from pgfleet_worker.backoff import Backoff
from pgfleet_worker.outcome import CalledOff, Failure, Outcome, Published, Released, Success
from pgfleet_worker.part import Part
from pgfleet_worker.unrecorded import instead, is_one_at_fault, may_pass

#: The most outcomes in one statement. 500 to 2,000 measured within 3 % of each other.
BATCH = 1000

#: The most characters of results in one statement: Postgres takes no value over 1 GB.
BATCH_SIZE = 16 * 1024 * 1024

#: How long a settle waits for a row that somebody keeps locked, before it lets others pass.
LOCKED = "2s"

_ID, _ATTEMPT, _TOLD = itemgetter(0), itemgetter(1), itemgetter(4, 5)


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
        self._refused: deque[list[Outcome]] = deque()
        self._again = 0.0
        self._pauses = Backoff()
        self._idle = False
        self._bell = threading.Lock()
        self._bell.acquire()
        self._closing = False
        self._conn: db.Connection | None = None
        #: Seconds that it takes to record successes, as a moving average.
        self.usual = 0.0
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
                self._deliver(deque(_groups(batch)))
            if self._refused and time.monotonic() >= self._again:
                # One at a time, as each may take as long as a lock; the next at once where this one passes.
                self._again = 0.0
                self._deliver(deque([self._refused.popleft()]))
                if not self._refused:
                    self._pauses.reset()
            elif not batch:
                if self._closing and not self._refused:
                    break
                self._wait()
        if self._conn is not None:
            self._conn.close()

    def _wait(self) -> None:
        """Until there is something new, or what was refused is due again."""
        self._idle = True
        if not self._outcomes and (self._refused or not self._closing):
            self._bell.acquire(timeout=max(0.0, self._again - time.monotonic()) if self._refused else -1)
        self._idle = False

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

    def _deliver(self, groups: deque[list[Outcome]]) -> None:
        """Record ``groups``, however often Postgres goes away meanwhile: all of it may be said twice without harm.

        What Postgres refuses for now (a right is missing, a row locked, its disk full) is put aside: others may pass.
        """
        waiting = Backoff()
        while groups:
            group = groups[0]
            try:
                self._record(group)
            except Exception as error:
                if db.is_away(error):
                    pause = waiting.next()
                    self._tell_waiting(groups, error, pause)
                    time.sleep(pause)
                    continue
                groups.popleft()
                passes = may_pass(error)
                if len(group) > 1 and (not passes or is_one_at_fault(error)):
                    # One of them is at fault: each alone, so that it fails or waits alone.
                    groups.extendleft([outcome] for outcome in group)
                    continue
                if passes:
                    self._refused.append(group)
                    if time.monotonic() >= self._again:
                        pause = self._pauses.next()
                        self._again = time.monotonic() + pause
                        self._tell_waiting(self._refused, error, pause)
                    continue
                self._bound(group[0]).error("settle.refused", error=str(error))
                other = instead(group[0], error)
                if other is not None:
                    groups.appendleft([other])
                    continue
            else:
                groups.popleft()
            self._on_settled(group)

    def _tell_waiting(self, groups: Iterable[list[Outcome]], error: Exception, pause: float) -> None:
        outcomes = sum(len(group) for group in groups)
        self._log.warning("settle.waiting", outcomes=outcomes, error=str(error), pause=round(pause, 3))

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
            self._conn = db.connect(self._settings, "pgfleet settle", engine=True, lock_timeout=LOCKED)
            self.usual = 0.0
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
        ids = f"{{{','.join(map(str, map(_ID, outcomes)))}}}"
        attempts = f"{{{','.join(map(str, map(_ATTEMPT, outcomes)))}}}"
        told: tuple[list[Any] | None, ...] = (None, None, None)
        if list(map(_TOLD, outcomes)).count((None, None)) < len(outcomes):
            told = [o[4] for o in outcomes], [o[5] for o in outcomes], [o[6] for o in outcomes]
        began = time.monotonic()
        row = conn.execute(self._queries["finish"], (worker, ids, attempts, *told), prepare=True).fetchone()
        self.usual += (time.monotonic() - began - self.usual) * 0.2
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
    worker: str | None = None
    successes: list[Outcome] = []
    for outcome in batch:
        if type(outcome) is Success:
            if outcome[2] is not worker:  # as good as never: no key to make a task, nothing to look up
                worker = outcome[2]
                successes = together.setdefault((Success, worker), [])
            successes.append(outcome)
        elif type(outcome) is Released:
            together.setdefault((Released, outcome.worker, outcome.delay, outcome.reason), []).append(outcome)
        else:
            yield [outcome]
    yield from together.values()
