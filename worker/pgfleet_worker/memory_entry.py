"""One schedule in memory: its clocks, its counts, and how lists show it. Guarded by the lock of ``memory.py``."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from pgfleet import cron as crons
from pgfleet.schedule import Trigger
from pgfleet_worker.declaration import Declaration
from pgfleet_worker.task import Task

NEVER = float("inf")


class Clock:
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
            self._due = NEVER
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
            "due_at": None if left == NEVER else datetime.now(UTC) + timedelta(seconds=left),
            "done_at": self._done_at,
        }
        return {name: value for name, value in words.items() if value is not None}

    def run_ended(self) -> None:
        """A run of the schedule has ended."""
        if self.trigger.fixed_delay and self.trigger.every is not None:
            self._due = self._now() + self.trigger.every.total_seconds()


class Entry:
    """One schedule and how it does."""

    def __init__(self, declaration: Declaration) -> None:
        self.declaration = declaration
        self.its = declaration.schedule
        self.clocks = [Clock(trigger, self.its.time_zone) for trigger in self.its.triggers]
        self.again = NEVER  # of time.monotonic: when a run is tried again
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
        self.again = NEVER
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
            "next_due": None if left == NEVER else datetime.now(UTC) + timedelta(seconds=left),
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
