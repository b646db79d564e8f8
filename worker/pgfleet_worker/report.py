"""The reporter: sends progress and checkpoints while the work goes on. One thread, started with the first report.

Progress is a courtesy: never waited for, thinned out, committed with ``synchronous_commit = off`` and dropped where Postgres
refuses it. A checkpoint is a promise: its handler waits until it is on the disk. Hence two connections.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta

import psycopg

from pgfleet import db, sql
from pgfleet.errors import DatabaseAway, LostTask
from pgfleet.log import Logger
from pgfleet.settings import Settings
from pgfleet_worker.backoff import Backoff
from pgfleet_worker.course import MOST_STEP, Course
from pgfleet_worker.handler import Cancelled
from pgfleet_worker.part import Part
from pgfleet_worker.task import Task, Why, storable

#: Seconds between looks of a handler that waits for its checkpoint at whether it is still wanted.
GLANCE = 0.1
#: Seconds that a checkpoint has to be recorded in, once its task is cancelled.
LAST_WORDS = 1.0


class _Request:
    """One checkpoint on its way; ``error`` is what to raise in the handler."""

    __slots__ = ("done", "error", "task", "text", "unwanted")

    def __init__(self, task: Task, text: str) -> None:
        self.task = task
        self.text = text
        self.done = threading.Event()
        self.error: Exception | None = None
        self.unwanted = False


class Reporter:
    """Takes reports from any thread. ``cancel(task, why)`` is told what Postgres answers: the task is another's, or is to
    be cancelled; ``is_running(task)`` whether a report is still of use."""

    def __init__(
        self,
        settings: Settings,
        log: Logger,
        cancel: Callable[[Task, Why], object],
        is_running: Callable[[Task], bool],
    ) -> None:
        self._settings = settings
        self._log = log
        self._tells = settings.log_level == "debug"
        self._cancel = cancel
        self._is_running = is_running
        self._queries = sql.queries("workers")
        self._changed = threading.Condition()
        self._reports: dict[Task, None] = {}
        self._requests: deque[_Request] = deque()
        self._thread: threading.Thread | None = None
        self._conns: dict[str, db.Connection] = {}

    def progress(self, task: Task, done: float, total: float, step: str | None) -> None:
        """Note how far ``task`` is; sent when a second has passed since its last report."""
        course = task.course
        if course is None:
            course = task.course = Course(None if task.resumed else task.began)
        course.note(done, total, step)
        if task not in self._reports or course.is_last:
            with self._changed:
                self._reports[task] = None
                self._wake()

    def checkpoint(self, task: Task, text: str) -> None:
        """Record ``text``; returns when it is durable. Raises :class:`Cancelled`, or Postgres's error for what it refuses."""
        if _is_lost(task) or (task.cancelled and not self._is_running(task)):  # or abandoned
            raise Cancelled(task.why)
        request = _Request(task, text)
        with self._changed:
            self._requests.append(request)
            self._wake()
        until: float | None = None
        while not request.done.wait(GLANCE):
            if not task.cancelled:
                continue
            until = until or time.monotonic() + LAST_WORDS
            if _is_lost(task) or time.monotonic() > until:
                request.unwanted = True
                break
        if request.error is not None:
            raise request.error
        if task.cancelled:
            raise Cancelled(task.why)

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = Part(target=self._work, name="reporter")
            self._thread.start()
        else:
            self._changed.notify()

    def _work(self) -> None:
        troubles = Backoff()
        while True:
            with self._changed:
                request, task = self._next()
            try:
                if request is not None:
                    self._save(request)
                elif task is not None:
                    self._report(task)
                troubles.reset()
            except (psycopg.Error, DatabaseAway) as error:
                if not db.is_away(error):
                    self._refused(request, task, error)
                    continue
                if request is not None and not request.unwanted:
                    self._requests.appendleft(request)
                elif task is not None:
                    with self._changed:
                        self._reports.setdefault(task)
                pause = troubles.next()
                self._log.warning("report.waiting", error=str(error), pause=round(pause, 3))
                time.sleep(pause)

    def _next(self) -> tuple[_Request | None, Task | None]:
        """Wait for the next checkpoint to record, or else the next report that is due."""
        while True:
            if self._requests:
                return self._requests.popleft(), None
            first, due = None, float("inf")
            for task in self._reports:
                course = task.course
                if course is not None and course.due < due:
                    first, due = task, course.due
            now = time.perf_counter()
            if first is not None and due <= now:
                del self._reports[first]
                return None, first
            self._changed.wait(None if first is None else due - now)

    def _report(self, task: Task) -> None:
        course = task.course
        if course is None or task.cancelled or not self._is_running(task):
            return
        course.mark_sent()
        left = course.time_left
        self._send(
            "progress",
            task,
            progress=course.fraction,
            current_step=None if course.step is None else storable(course.step)[:MOST_STEP],
            time_left=None if left is None else timedelta(seconds=left),
        )

    def _save(self, request: _Request) -> None:
        task = request.task
        if request.unwanted:
            return
        self._send("checkpoint", task, checkpoint=request.text)
        request.done.set()
        if self._tells and not _is_lost(task):
            where = {"task": task.id, "type": task.type, "attempt": task.attempt, "worker": task.worker}
            self._log.debug("task.checkpointed", **where, characters=len(request.text))

    def _send(self, query: str, task: Task, **told: object) -> None:
        fence = {"worker": task.worker, "id": task.id, "attempt": task.attempt}
        try:
            row = db.call(self._connection(query), self._queries[query], **fence, **told).fetchone()
        except LostTask:
            self._cancel(task, "lost")
        else:
            if row and row[0]:
                self._cancel(task, "cancelled")

    def _refused(self, request: _Request | None, task: Task | None, error: Exception) -> None:
        of = request.task if request is not None else task
        if of is not None:
            where = {"task": of.id, "type": of.type, "attempt": of.attempt, "worker": of.worker}
            self._log.warning("report.refused", **where, error=str(error))
        if request is not None:
            request.error = error
            request.done.set()

    def _connection(self, query: str) -> db.Connection:
        conn = self._conns.get(query)
        if conn is None or conn.closed:
            commit = "off" if query == "progress" else "on"
            conn = db.connect(self._settings, "pgfleet report", engine=True, synchronous_commit=commit)
            self._conns[query] = conn
        return conn


def _is_lost(task: Task) -> bool:
    return task.why == "lost"
