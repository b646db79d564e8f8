"""The fleet's own chores: old tasks go, and files that nobody wants. Two schedules, whose runs are tasks like any other.

Every worker declares them as it does those of its code, and serves their types besides its own. So an operator sees them,
disables them, starts them by hand; overlap and ``max_running`` let one run at a time go in the whole fleet. A run is a
guest in its worker: it ends when that stops, and after a spell it saves how far it is and gives its slot back.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from pgfleet import db, housekeeping
from pgfleet.housekeeping import PURGE, SWEEP
from pgfleet.leftovers import ForeignVolume
from pgfleet.log import Logger
from pgfleet.settings import Settings
from pgfleet_worker.declaration import Declaration
from pgfleet_worker.fleet import Fleet
from pgfleet_worker.handler import GiveUp, Handler, Release, handler
from pgfleet_worker.task import Task

#: Seconds from one sweep to the next, and from one purge at most; purges come as often as a tenth of the shortest term.
HOUR = 3600.0
LEAST_PAUSE = 1.0
#: Seconds after which a run gives its slot back, and for how long: others may have waited for it.
SPELL = 60.0
INTERMISSION = 30.0
#: Seconds after which a run begins to tell how far it is. Most are over by then, and telling takes connections that stay.
QUIET = 5.0
#: A step of the purge is followed by a rest this many times as long, so that it takes a fifth of one connection's time.
REST = 4.0
#: Seconds, for the same.
LEAST_REST = 0.02
#: Seconds between two looks of one that rests at whether it is still wanted.
GLANCE = 0.1
#: Seconds that one step may take.
PATIENCE = 60.0


class Housekeeping:
    """One worker's part: ``schedules`` to declare, and ``handlers`` for the runs, by type. None of either without
    ``settings.schedules`` or with ``only_targeted``; and the sweep only where the volume is there when the worker starts."""

    def __init__(self, settings: Settings, log: Logger) -> None:
        self._settings = settings
        self._log = log
        self._terms = housekeeping.terms(settings)
        self._stop = threading.Event()
        self.schedules: list[Declaration] = []
        if settings.schedules and not settings.only_targeted:
            shortest = min((keep.total_seconds() for keep in self._terms.values()), default=10 * HOUR)
            every = min(HOUR, max(LEAST_PAUSE, shortest / 10))
            self._declare(PURGE, every, self.purge, "Delete the finished tasks whose term is over, with their files.")
            if settings.export_dir.is_dir():
                self._declare(SWEEP, HOUR, self.sweep, "Remove from the export volume what nobody will ever want.")
        #: For the runs, by type.
        self.handlers: dict[str, Handler] = {one.handler.type: one.handler for one in self.schedules}

    def _declare(self, name: str, every: float, chore: Callable[[Task, db.Connection], Any], description: str) -> None:
        @handler(name, description=description, max_running=1, max_retries=3, retry_delay=60)
        def run(task: Task) -> Any:
            try:
                with db.connect(
                    self._settings, "pgfleet housekeeping", engine=True, patience=PATIENCE, lock_timeout="5s"
                ) as conn:
                    return chore(task, conn)
            except Release:
                raise
            except ForeignVolume as error:
                self._log.error("housekeeping.refused", error=error.message, detail=error.detail, hint=error.hint)
                raise GiveUp(error.message, detail=error.detail, hint=error.hint) from error
            except Exception as error:
                if not db.is_away(error):
                    self._log.warning("housekeeping.failed", error=str(error))
                with db.ours():
                    raise

        builder = Fleet().schedule(name).every(timedelta(seconds=every)).run(run)
        self.schedules.append(builder.group("housekeeping").describe(description).register())

    def stop(self) -> None:
        """Have a run end after the step under way; does not wait."""
        self._stop.set()

    def purge(self, task: Task, conn: db.Connection) -> dict[str, Any]:
        """Walk through all tasks once and delete what is old; answers how many of each status, and how many files.

        A step is a transaction of its own, and harmless when it comes twice: what is old is old for everybody.
        """
        saved = task.saved or {}
        after, files = saved.get("after", 0), saved.get("files", 0)
        tasks = Counter(saved.get("tasks", {}))
        start, newest = time.monotonic(), housekeeping.newest(conn)
        while True:
            began = time.monotonic()
            done = housekeeping.purge_step(conn, self._terms, after=after)
            removed = housekeeping.remove(self._settings.export_dir, done.files)
            if done.tasks:
                self._log.info("housekeeping.purged", tasks=done.tasks, files=len(removed.names))
            self._complain(removed.failed)
            tasks.update(done.tasks)
            files += len(removed.names)
            if done.reached is None:
                return {"tasks": dict(tasks), "files": files}
            after = done.reached
            if began >= start + QUIET:
                task.progress(after, max(after + 1, newest), f"{tasks.total()} tasks removed so far")
            self._rest(task, max(LEAST_REST, REST * (time.monotonic() - began)))
            self._go_on(task, start, {"after": after, "tasks": dict(tasks), "files": files})

    def sweep(self, task: Task, conn: db.Connection) -> dict[str, Any]:
        """Remove from the volume what nobody wants; answers how many files."""
        saved = task.saved or {}
        files = saved.get("files", 0)
        start = time.monotonic()
        for step in housekeeping.sweep(conn, self._settings.export_dir, after=saved.get("after", "")):
            for file in step.files:
                of, attempt = file.attempt or (None, None)
                self._log.info("housekeeping.swept", filename=file.name, bytes=file.bytes, task=of, attempt=attempt)
            self._complain(step.failed)
            files += len(step.files)
            if time.monotonic() >= start + QUIET:
                task.progress(0, 1, f"{files} files removed so far")
            self._go_on(task, start, {"after": step.reached, "files": files})
        return {"files": files}

    def _go_on(self, task: Task, start: float, reached: dict[str, Any]) -> None:
        """Return where the run may; else save what it has ``reached``, for its next attempt, and end it."""
        stopping = self._stop.is_set()
        if not (stopping or task.cancelled or time.monotonic() > start + SPELL):
            return
        task.checkpoint(reached)  # raises Cancelled where the task was called off
        if stopping:
            raise Release("the worker stops", seconds=0)
        raise Release("it has had the slot for long", seconds=INTERMISSION)

    def _rest(self, task: Task, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not task.cancelled and (left := until - time.monotonic()) > 0:
            if self._stop.wait(min(GLANCE, left)):
                return

    def _complain(self, failed: list[tuple[str, str]]) -> None:
        for name, why in failed:
            self._log.warning("housekeeping.unremoved", filename=name, error=why)
