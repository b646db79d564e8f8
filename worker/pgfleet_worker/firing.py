"""Firing: the worker's part in starting what is due. A thread, and where the fleet has schedules a connection of its own.

It sleeps until the next due time, as the database's clock has it, or until told that the schedules have changed. Every
worker of the fleet does the same; what one fires the others pass over (``pgfleet.firing``, ``sql/README.md``).

While there are none but the fleet's own (:mod:`housekeeping`), for which a minute is soon enough, firing is *cold*: it
connects about once a minute, looks, and leaves again.
"""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections.abc import Callable, Sequence

import psycopg

from pgfleet import db, firing, schedules
from pgfleet.errors import LostWorker, PgfleetError
from pgfleet.housekeeping import NAMES
from pgfleet.log import Logger
from pgfleet.settings import Settings
from pgfleet_worker.backoff import Backoff
from pgfleet_worker.declaration import Declaration
from pgfleet_worker.memory import Memory
from pgfleet_worker.part import Part

#: Triggers fired in one transaction; a tenth after one that took too long for Postgres.
BATCH = 100
#: Where even a single trigger took too long (it catches up thousands of due times, on all nodes), it is given so many times
#: as long, else it would come first for ever. Meanwhile the other workers pass over it.
PATIENCE = 8
#: Seconds between two looks that neither a due time nor a notification asked for; and where none gets through.
MOST_PAUSE = 10.0
DEAF_PAUSE = 2.0
#: Seconds between two looks of one that is cold, at most and at least: as often as the shortest of the fleet's own comes.
MOST_COLD, LEAST_COLD = 60.0, 1.0
#: Seconds that a worker comes after a due time for each that is before it in the fleet, and at most. So one fires and the
#: others find it done, rather than all looking at once; and where the first is away or busy, the next is at hand.
LATER, LATEST = 0.005, 0.02
#: Seconds until another look where something is due that others have in hand, at first and at most.
BUSY, BUSIEST = 0.02, 1.0
#: Seconds after which Postgres ends the transaction of a worker that stands still between looking and firing: till then
#: nobody else can fire what it has locked.
HOLD = 10.0


class Firing:
    """Fires from :meth:`start` to :meth:`stop`; without ``settings.schedules`` it does nothing but register.

    ``place`` tells this worker's among the live ones, from 0.
    """

    def __init__(
        self, settings: Settings, log: Logger, declarations: Sequence[Declaration], place: Callable[[], int]
    ) -> None:
        self._settings = settings
        self._log = log
        self._stored = [one.stored for one in declarations if not one.in_memory]
        self._names = [one.schedule.name for one in declarations]
        own = [one for one in self._stored if one.name in NAMES]
        self._has_others = len(own) < len(declarations)
        intervals = [trigger.every.total_seconds() for one in own for trigger in one.triggers if trigger.every]
        self._cold_pause = max(LEAST_COLD, min(MOST_COLD, *intervals, MOST_COLD))
        self._cold = False
        self._place = place
        self._registered = False
        self._troubles = Backoff()
        self._others = Backoff(BUSY, BUSIEST)
        self._wake = threading.Condition()
        self._rung = False
        self._held = False
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._batch = BATCH
        self._looked = float("-inf")
        self._worker = ""
        self._deaf = False
        self._told, self._told_at = ("", -1), float("-inf")
        #: What is kept in this process.
        self.memory = Memory(settings, log, declarations)

    def register(self, conn: db.Connection) -> None:
        """Make what the code declares so; once: what an operator removes later stays removed until the next start.

        Raises :class:`~pgfleet.errors.InvalidTask` for what Postgres doesn't take.
        """
        if not self._registered:
            for name, what in schedules.put_all(conn, self._stored).items():
                if what != "unchanged":
                    self._log.info("schedule.registered", schedule=name, what=what)
            self._registered = True

    def declare(self, conn: db.Connection, worker: str) -> None:
        """Under this id, say what the code declares. Raises :class:`~pgfleet.errors.LostWorker`."""
        self._worker = worker
        if self._names:
            schedules.declare(conn, worker, names=self._names)

    def connected(self, conn: db.Connection, *, deaf: bool) -> None:
        """After each connect: begin; or notice what has changed meanwhile. ``deaf``: no notification gets through."""
        self._deaf = deaf
        if self._thread is not None:
            self.ring()
        elif self._settings.schedules:
            self._cold = self._may_be_cold(conn)
            self.memory.start()
            self._thread = Part(target=self._run, name="firing")
            self._thread.start()

    def ring(self) -> None:
        """The schedules have changed, or may have: look. From any thread."""
        with self._wake:
            self._rung = True
            self._wake.notify()

    def hold(self, held: bool) -> None:
        """Fire nothing until told otherwise. From any thread."""
        self._held = held
        self.memory.hold("paused", held)
        self.ring()

    def stop(self) -> None:
        """End; does not wait. A look that is cut off has fired nothing."""
        self._stopping = True
        self.memory.stop()
        self.ring()

    def _run(self) -> None:
        if self._cold:
            self._rest()  # so that what lives for moments pays nothing
        while not self._stopping:
            try:
                with db.connect(
                    self._settings,
                    "pgfleet firing",
                    engine=True,
                    patience=self._settings.answer_timeout * (PATIENCE if self._batch == 1 else 1),
                    idle_in_transaction_session_timeout=f"{HOLD * 1000:.0f}ms",
                ) as conn:
                    self._work(conn)
                self._rest()
            except (psycopg.Error, PgfleetError) as error:
                if self._cold and db.is_away(error):
                    self._rest()
                    continue
                pause = self._troubles.next()
                self._batch = self._batch if db.is_away(error) else max(1, self._batch // 10)
                event = "firing.waiting" if db.is_away(error) else "firing.refused"
                self._log.warning(event, error=str(error), pause=round(pause, 3))
                self._sleep(pause, deaf=True)
            except Exception:  # a fault of ours: it must not end the worker, and with it in turn the whole fleet
                self._log.error("firing.failed", problem=traceback.format_exc())
                self._sleep(MOST_PAUSE, deaf=True)

    def _work(self, conn: db.Connection) -> None:
        """Fire until there is nothing to keep the connection for."""
        rung = True
        while not self._stopping:
            if self.memory:
                self._see_to_memory(conn)
            if rung:
                self._cold = self._may_be_cold(conn)
            pause = self._most_pause() if self._held else self._look(conn, rung)
            self._troubles.reset()
            if self._cold and pause > 0:
                return
            rung = self._sleep(pause)

    def _may_be_cold(self, conn: db.Connection) -> bool:
        return not (self._deaf or self._has_others or schedules.any_at_all(conn))

    def _rest(self) -> None:
        # Spread, so that a fleet started at once doesn't come at once.
        self._sleep(self._cold_pause * random.uniform(0.8, 1.0))  # noqa: S311

    def _look(self, conn: db.Connection, rung: bool) -> float:
        """Fire what is due, and what has come with a run's end; answers the seconds until there may be more."""
        if not rung and self._place() and time.monotonic() - self._looked < self._most_pause():
            due_in = firing.next_due_in(conn)
            if due_in is None or due_in > 0:
                return self._until(due_in)  # another has fired what we came for
        self._looked = time.monotonic()
        quantity = self._batch
        fired = firing.fire(conn, quantity)
        self._batch = min(BATCH, 2 * quantity)
        for schedule, problem in fired.problems:
            self._log.error("schedule.shelved", schedule=schedule, problem=problem)
        if fired.tasks:
            self._log.debug("schedule.fired", triggers=fired.triggers, tasks=fired.tasks)
        if fired.triggers == quantity:
            return 0.0
        due_in = firing.next_due_in(conn)
        if (due_in == 0 and not fired.triggers) or (rung and firing.has_ends(conn)):
            self._looked = float("-inf")
            return self._others.next()
        self._others.reset()
        return self._until(due_in)

    def _until(self, due_in: float | None) -> float:
        most = self._most_pause()
        return most if due_in is None else min(most, due_in + min(LATEST, LATER * self._place()))

    def _most_pause(self) -> float:
        most = DEAF_PAUSE if self._deaf else MOST_PAUSE
        return min(most, self._settings.heartbeat) if self.memory else most

    def _sleep(self, seconds: float, *, deaf: bool = False) -> bool:
        """So long, or until rung where not ``deaf`` to that; answers whether it was rung meanwhile."""
        deadline = time.monotonic() + seconds
        with self._wake:
            while not self._stopping and (deaf or not self._rung) and (left := deadline - time.monotonic()) > 0:
                self._wake.wait(left)
            rung, self._rung = self._rung, False
        return rung

    def _see_to_memory(self, conn: db.Connection) -> None:
        """Tell how those in memory do, at each heartbeat where that has changed; they stop with all others."""
        self.memory.hold("stopped", schedules.is_stopped(conn))
        news = (self._worker, self.memory.version)
        now = time.monotonic()
        if not news[0] or news == self._told or now - self._told_at < self._settings.heartbeat:
            return
        try:
            schedules.declare(conn, news[0], in_memory=self.memory.shown())
        except LostWorker:
            return  # the loop hears of it too, and registers anew
        self._told, self._told_at = news, now
