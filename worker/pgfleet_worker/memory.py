"""Schedules in memory: run inside this process, on its own clocks, and gone with it. Nothing of them is stored but what
:meth:`Memory.shown` tells, for lists.

One thread watches the clocks; each run has a thread of its own, at most :data:`MOST` at once. What is due then waits, the
higher priority first. A schedule whose run is still going skips its due time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from pgfleet.log import Logger
from pgfleet.settings import Settings
from pgfleet_worker.declaration import Declaration
from pgfleet_worker.handler import GiveUp, Release, RetryLater
from pgfleet_worker.loans import Loans
from pgfleet_worker.memory_entry import NEVER, Entry
from pgfleet_worker.outcome import awaited, described, seconds_of, trace
from pgfleet_worker.part import Part
from pgfleet_worker.task import Task, to_json

#: Runs at once.
MOST = 4
#: Seconds: the clock on the wall may be set, so what goes by it is looked at so often.
GLANCE = 30.0
#: The delay before the first retry where none is given, as a task type's.
RETRY_DELAY = timedelta(seconds=10)


class Memory:
    """Runs what is declared ``in_memory``, from :meth:`start` to :meth:`stop`."""

    def __init__(self, settings: Settings, log: Logger, declarations: Iterable[Declaration], most: int = MOST) -> None:
        self._settings = settings
        self._log = log
        self._declarations = [one for one in declarations if one.in_memory]
        self._most = most
        self._entries: list[Entry] = []
        self._changed = threading.Condition()
        self._held: set[str] = set()
        self._stopping = False
        #: Counts up with each change of what :meth:`shown` tells.
        self.version = 0

    def __bool__(self) -> bool:
        return bool(self._declarations)

    def start(self) -> None:
        """Set the clocks, and watch them."""
        with self._changed:
            if self._declarations and not self._entries:
                self._entries = [Entry(declaration) for declaration in self._declarations]
                Part(target=self._watch, name="memory").start()

    def hold(self, reason: str, held: bool) -> None:
        """Begin nothing while there is a reason not to; what became due meanwhile then runs once."""
        with self._changed:
            (self._held.add if held else self._held.discard)(reason)
            self._changed.notify_all()

    def stop(self) -> None:
        """Begin nothing more; what runs, runs on."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """Call off what runs: its ``task.cancelled`` turns true."""
        with self._changed:
            for task in self._running():
                task.why = "stopping"
                task.cancelled = True

    @property
    def busy(self) -> bool:
        """Does anything run?"""
        with self._changed:
            return bool(self._running())

    def shown(self) -> list[dict[str, Any]]:
        """How each does, by name."""
        with self._changed:
            return [entry.shown() for entry in self._entries]

    def _running(self) -> list[Task]:
        return [entry.task for entry in self._entries if entry.task is not None]

    def _watch(self) -> None:
        with self._changed:
            while not self._stopping:
                self._changed.wait(None if self._held else min(self._begin_due(), GLANCE))

    def _begin_due(self) -> float:
        """Begin what is due, as far as there is room, else it waits for a run's end; answers the seconds until the next is."""
        due = [entry for entry in self._entries if entry.left <= 0]
        for entry in sorted(due, key=lambda entry: (-entry.its.priority, entry.left)):
            if entry.task is not None:
                self.version += entry.skip()
            elif len(self._running()) < self._most:
                self._begin(entry)
                self.version += 1
        return min((left for entry in self._entries if (left := entry.left) > 0), default=NEVER)

    def _begin(self, entry: Entry) -> None:
        entry.attempt = 1 if entry.go_on() else entry.attempt + 1
        data = entry.its.data
        text = data if data is None or isinstance(data, str) else to_json(data)
        entry.task = Task(0, entry.declaration.handler.type, text, 0, entry.attempt, _Here(self._settings))
        entry.runs += 1
        entry.last_run_at = datetime.now(UTC)
        Part(target=self._run, args=(entry, entry.task), name=f"memory {entry.its.name}").start()

    def _run(self, entry: Entry, task: Task) -> None:
        status, problem, again = "success", None, None
        try:
            awaited(entry.declaration.handler.function(task))
        except BaseException as error:  # SystemExit too: it must not end the worker
            status = "cancelled" if task.cancelled else "released" if isinstance(error, Release) else "failure"
            problem = None if status != "failure" else described(error)
            again = None if task.cancelled else self._again(entry, error)
            if status == "failure":
                self._log.warning(
                    "memory.failed",
                    schedule=entry.its.name,
                    attempt=task.attempt,
                    error=problem,
                    retry_in=again,
                    problem=trace(error),
                )
        with self._changed:
            entry.task = None
            entry.last_ended_at, entry.last_status, entry.last_error = datetime.now(UTC), status, problem
            entry.successes += status == "success"
            entry.failures += status == "failure"
            if again is not None:
                entry.again = time.monotonic() + again
            for clock in entry.clocks:
                clock.run_ended()
            self.version += 1
            self._changed.notify_all()

    def _again(self, entry: Entry, error: BaseException) -> float | None:
        """In how many seconds it is tried again; None: not before its next due time."""
        if isinstance(error, Release):
            return seconds_of(error)
        if isinstance(error, GiveUp) or entry.attempt > (entry.its.max_retries or 0):
            return None
        if isinstance(error, RetryLater):
            return seconds_of(error)
        delay = RETRY_DELAY if entry.its.retry_delay is None else entry.its.retry_delay
        return float(min(delay.total_seconds() * 2 ** (entry.attempt - 1), 3600.0))


class _Here(Loans):
    """What a run in memory has around it."""

    def progress(self, task: Task, done: float, total: float, step: str | None) -> None:
        """Nobody is told: it is no task that could be looked up."""

    def checkpoint(self, task: Task, text: str) -> None:
        raise RuntimeError(
            "A schedule in memory stores nothing, and so no checkpoint: leave out .in_memory() for that."
        )
