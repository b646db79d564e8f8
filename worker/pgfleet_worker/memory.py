"""Schedules in memory: run inside this process, on its own clocks, and gone with it. Nothing of them is stored but what
:meth:`Memory.shown` tells, for lists.

One thread watches the clocks; each run has a thread of its own, at most :data:`MOST` at once. What is due then waits, the
higher priority first. A schedule whose run is still going skips its due time.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pgfleet import cron as crons
from pgfleet import db
from pgfleet.log import Logger
from pgfleet.schedules import Trigger
from pgfleet.settings import Settings
from pgfleet_worker.fleet import Declaration
from pgfleet_worker.handler import GiveUp, Release, RetryLater
from pgfleet_worker.part import Part
from pgfleet_worker.task import Task, to_json

#: Runs at once.
MOST = 4
#: Seconds: the clock on the wall may be set, so what goes by it is looked at so often.
GLANCE = 30.0
#: The delay before the first retry where none is given, as a task type's.
RETRY_DELAY = timedelta(seconds=10)
_NEVER = float("inf")


class _Clock:
    """A trigger's: intervals and delays go by the time that passes, cron and times by the clock on the wall."""

    def __init__(self, trigger: Trigger, zone: str) -> None:
        self.trigger = trigger
        self._cron = None if trigger.cron is None else crons.parse(trigger.cron, zone)
        self._by_the_wall = trigger.cron is not None or trigger.at is not None
        self._at = trigger.at if trigger.after is None else datetime.now(UTC) + trigger.after
        self._done_at: datetime | None = None
        if self._cron is not None:
            self._due = self._cron.next_after(datetime.now(UTC)).timestamp()
        elif trigger.at is not None:
            self._due = trigger.at.timestamp()
        else:
            self._due = self._now() + (trigger.every or trigger.after or timedelta()).total_seconds()

    def _now(self) -> float:
        return time.time() if self._by_the_wall else time.monotonic()

    @property
    def left(self) -> float:
        """Seconds until it is due; never, where it is not on the clock."""
        return self._due - self._now()

    def go_on(self) -> None:
        """Its due time has been seen to: on to the next. Never the same again, though the clock be set back."""
        every = self.trigger.every
        if self._cron is not None:
            last = max(self._due, self._now())
            self._due = self._cron.next_after(datetime.fromtimestamp(last, UTC)).timestamp()
        elif every is not None and not self.trigger.fixed_delay:
            seconds = every.total_seconds()
            self._due += seconds * ((self._now() - self._due) // seconds + 1)
        else:
            self._due = _NEVER
            self._done_at = datetime.now(UTC) if self.trigger.kind == "once" else None

    def shown(self) -> dict[str, Any]:
        """As a trigger of the database is shown."""
        its, left = self.trigger, self.left
        words: dict[str, Any] = {
            "kind": its.kind,
            "every": None if its.every is None else its.every.total_seconds(),
            "fixed_delay": its.fixed_delay or None,
            "cron": its.cron,
            "at": self._at,
            "after": None if its.after is None else its.after.total_seconds(),
            "due_at": None if left == _NEVER else datetime.now(UTC) + timedelta(seconds=left),
            "done_at": self._done_at,
        }
        return {name: value for name, value in words.items() if value is not None}

    def run_ended(self) -> None:
        """A run of the schedule has ended."""
        if self.trigger.fixed_delay and self.trigger.every is not None:
            self._due = self._now() + self.trigger.every.total_seconds()


class _Entry:
    """One schedule and how it does."""

    def __init__(self, declaration: Declaration) -> None:
        self.declaration = declaration
        self.its = declaration.schedule
        self.clocks = [_Clock(trigger, self.its.time_zone) for trigger in self.its.triggers]
        self.again = _NEVER  # of time.monotonic: when a run is tried again
        self.task: Task | None = None
        self.attempt = 0
        self.runs = self.successes = self.failures = self.skipped = 0
        self.created_at = datetime.now(UTC)
        self.last_skipped_at: datetime | None = None
        self.last_run_at: datetime | None = None
        self.last_ended_at: datetime | None = None
        self.last_status: str | None = None
        self.last_error: str | None = None

    @property
    def left(self) -> float:
        """Seconds until it is due."""
        return min(self.again - time.monotonic(), *(clock.left for clock in self.clocks))

    def skip(self) -> bool:
        """Pass over due times that others follow; answers whether there was one. What comes only once waits instead."""
        passed = [clock for clock in self.clocks if clock.left <= 0 and clock.trigger.kind != "once"]
        for clock in passed:
            clock.go_on()
            self.skipped += 1
            self.last_skipped_at = datetime.now(UTC)
        return bool(passed)

    def go_on(self) -> bool:
        """On to the next due times; answers whether one has come that is no retry."""
        fresh = False
        for clock in self.clocks:
            if clock.left <= 0:
                clock.go_on()
                fresh = True
        self.again = _NEVER
        return fresh

    def shown(self) -> dict[str, Any]:
        """As lists show it: the words are those of ``pgfleet.schedules.State``."""
        its, left = self.its, self.left
        return {
            "name": its.name,
            "group": its.group,
            "description": its.description,
            "type": self.declaration.handler.type,
            "triggers": [clock.shown() for clock in self.clocks],
            "time_zone": its.time_zone,
            "priority": its.priority,
            "enabled": True,
            "max_retries": its.max_retries,
            "retry_delay": None if its.retry_delay is None else its.retry_delay.total_seconds(),
            "created_at": self.created_at,
            "next_due": None if left == _NEVER else datetime.now(UTC) + timedelta(seconds=left),
            "running": int(self.task is not None),
            "last_run_at": self.last_run_at,
            "last_ended_at": self.last_ended_at,
            "last_status": self.last_status,
            "last_error": self.last_error,
            "runs": self.runs,
            "successes": self.successes,
            "failures": self.failures,
            "skipped": self.skipped,
            "last_skipped_at": self.last_skipped_at,
            "last_skip_reason": "overlap" if self.skipped else None,
        }


class Memory:
    """Runs what is declared ``in_memory``, from :meth:`start` to :meth:`stop`."""

    def __init__(self, settings: Settings, log: Logger, declarations: Iterable[Declaration], most: int = MOST) -> None:
        self._settings = settings
        self._log = log
        self._declarations = [one for one in declarations if one.in_memory]
        self._most = most
        self._entries: list[_Entry] = []
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
                self._entries = [_Entry(declaration) for declaration in self._declarations]
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
        return min((left for entry in self._entries if (left := entry.left) > 0), default=_NEVER)

    def _begin(self, entry: _Entry) -> None:
        entry.attempt = 1 if entry.go_on() else entry.attempt + 1
        data = entry.its.data
        text = data if data is None or isinstance(data, str) else to_json(data)
        entry.task = Task(0, entry.declaration.handler.type, text, 0, entry.attempt, _Here(self._settings))
        entry.runs += 1
        entry.last_run_at = datetime.now(UTC)
        Part(target=self._run, args=(entry, entry.task), name=f"memory {entry.its.name}").start()

    def _run(self, entry: _Entry, task: Task) -> None:
        status, problem, again = "success", None, None
        try:
            value = entry.declaration.handler.function(task)
            if inspect.iscoroutine(value):
                asyncio.run(value)
        except BaseException as error:  # SystemExit too: it must not end the worker
            status = "cancelled" if task.cancelled else "released" if isinstance(error, Release) else "failure"
            problem = None if status != "failure" else f"{type(error).__name__}: {error}"
            again = None if task.cancelled else self._again(entry, error)
            if status == "failure":
                self._log.warning(
                    "memory.failed",
                    schedule=entry.its.name,
                    attempt=task.attempt,
                    error=problem,
                    retry_in=again,
                    problem=traceback.format_exc(),
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

    def _again(self, entry: _Entry, error: BaseException) -> float | None:
        """In how many seconds it is tried again; None: not before its next due time."""
        if isinstance(error, Release):
            return error.seconds
        if isinstance(error, GiveUp) or entry.attempt > (entry.its.max_retries or 0):
            return None
        if isinstance(error, RetryLater):
            return error.seconds
        delay = RETRY_DELAY if entry.its.retry_delay is None else entry.its.retry_delay
        return float(min(delay.total_seconds() * 2 ** (entry.attempt - 1), 3600.0))


class _Here:
    """What a run in memory has around it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def export_dir(self) -> Path:
        return self._settings.export_dir

    @contextmanager
    def connect(self) -> Iterator[db.Connection]:
        with db.connect(self._settings, "pgfleet handler", autocommit=False) as conn:
            yield conn

    def progress(self, task: Task, done: float, total: float, step: str | None) -> None:
        """Nobody is told: it is no task that could be looked up."""

    def checkpoint(self, task: Task, text: str) -> None:
        raise RuntimeError(
            "A schedule in memory stores nothing, and so no checkpoint: leave out .in_memory() for that."
        )
