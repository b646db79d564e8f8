"""The fleet's own chores, one worker at a time: old tasks go, and files that nobody wants.

A thread and a connection of their own, the latter only while there is something to do. Which chore is due stands in the
table `housekeeping`, whose row is locked for a step: no leader, and whoever dies lets go.
"""

from __future__ import annotations

import random
import threading
import time
from datetime import timedelta

from pgfleet import db, housekeeping, sql
from pgfleet.leftovers import ForeignVolume
from pgfleet.log import Logger
from pgfleet.settings import Settings
from pgfleet.volume import VolumeError
from pgfleet_worker.part import Part

#: Seconds between two looks for a chore that is due, at most and at least.
MOST_PAUSE = 60.0
LEAST_PAUSE = 1.0
#: Seconds from the end of a chore until it is due again, at most; retention as often as a tenth of its shortest term.
HOUR = 3600.0
#: Seconds after which a chore whose worker has stopped between two steps is another's.
HOLD = 60.0
#: A step of the purge is followed by a rest this many times as long, so that it takes a fifth of one connection's time.
REST = 4.0
#: Seconds, for the same.
LEAST_REST = 0.02
#: Seconds that one step may take.
PATIENCE = 60.0


class Housekeeping:
    """Sees to the chores from :meth:`start` to :meth:`stop`; without ``settings.schedules`` it does nothing."""

    def __init__(self, settings: Settings, log: Logger) -> None:
        self._settings = settings
        self._log = log
        self._queries = sql.queries("housekeeping")
        self._terms = housekeeping.terms(settings)
        shortest = min((keep.total_seconds() for keep in self._terms.values()), default=10 * HOUR)
        self._again = min(HOUR, max(LEAST_PAUSE, shortest / 10))
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; the first look is a pause away, so that what lives for moments pays nothing. May be called again."""
        if self._settings.schedules and self._thread is None:
            self._thread = Part(target=self._keep, name="housekeeping")
            self._thread.start()

    def stop(self) -> None:
        """End after the step under way; does not wait. A step that is cut off has done nothing."""
        self._stop.set()

    def _keep(self) -> None:
        # Spread, so that a fleet started at once doesn't come at once.
        while not self._stop.wait(min(MOST_PAUSE, self._again) * random.uniform(0.8, 1.0)):  # noqa: S311
            try:
                with db.connect(
                    self._settings, "pgfleet housekeeping", engine=True, patience=PATIENCE, lock_timeout="5s"
                ) as conn:
                    self.purge(conn)
                    self.sweep(conn)
            except Exception as error:  # the chore is due still, and its turn comes again; the worker has its own to do
                if not db.is_away(error):
                    self._log.warning("housekeeping.failed", error=str(error))

    def purge(self, conn: db.Connection) -> None:
        """Walk through all tasks once and delete what is old, where that is due and no other worker is at it."""
        going_on = False
        while not self._stop.is_set():
            began = time.monotonic()
            with conn.transaction():
                cursor = self._take(conn, "purge", going_on)
                if cursor is None:
                    return
                done = housekeeping.purge_step(conn, self._terms, after=cursor)
                self._put(conn, "purge", done.reached, self._again)
            removed = housekeeping.remove(self._settings.export_dir, done.files)
            if done.tasks:
                self._log.info("housekeeping.purged", tasks=done.tasks, files=len(removed.names))
            self._complain(removed.failed)
            if done.reached is None:
                return
            going_on = True
            self._stop.wait(max(LEAST_REST, REST * (time.monotonic() - began)))

    def sweep(self, conn: db.Connection) -> None:
        """Remove from the volume what nobody wants, where that is due and the volume is here."""
        if not self._settings.export_dir.is_dir():
            return  # on this server; another's worker has it
        with conn.transaction():
            if self._take(conn, "sweep", False) is None:
                return
            self._put(conn, "sweep", 0, HOLD)
        try:
            for step in housekeeping.sweep(conn, self._settings.export_dir):
                for file in step.files:
                    task, attempt = file.attempt or (None, None)
                    self._log.info(
                        "housekeeping.swept", filename=file.name, bytes=file.bytes, task=task, attempt=attempt
                    )
                self._complain(step.failed)
                if self._stop.is_set():
                    return  # due in a minute: somebody goes on
                self._put(conn, "sweep", 0, HOLD)
        except ForeignVolume as error:
            self._log.error("housekeeping.refused", error=error.message, detail=error.detail, hint=error.hint)
        except VolumeError as error:
            self._log.warning("housekeeping.failed", error=str(error))
        self._put(conn, "sweep", None, HOUR)

    def _take(self, conn: db.Connection, chore: str, going_on: bool) -> int | None:
        row = conn.execute(self._queries["take"], {"chore": chore, "going_on": going_on}).fetchone()
        return None if row is None else int(row[0])

    def _put(self, conn: db.Connection, chore: str, cursor: int | None, pause: float) -> None:
        """Set where the chore goes on and, in seconds, when others may: a minute from now, or (``cursor`` None) anew."""
        wait = timedelta(seconds=pause if cursor is None else HOLD)
        conn.execute(self._queries["put"], {"chore": chore, "cursor": cursor or 0, "pause": wait})

    def _complain(self, failed: list[tuple[str, str]]) -> None:
        for name, why in failed:
            self._log.warning("housekeeping.unremoved", filename=name, error=why)
