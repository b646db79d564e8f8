"""Orders: what operators want of this worker.

Asked for when a notification names this worker, at each heartbeat in case one was missed, and each second where none
gets through.
"""

from __future__ import annotations

import time

from pgfleet import db, sql
from pgfleet.log import Logger
from pgfleet.settings import Settings
from pgfleet_worker.attempt import Attempts

#: Seconds between two questions while no notification reaches this worker.
SOON = 1.0
#: What is logged of each order.
EVENTS = {"work": "worker.resumed", "pause": "worker.paused", "drain": "worker.draining"}


class Orders:
    """What this worker was told last. For the loop's thread alone."""

    def __init__(self, settings: Settings, log: Logger, attempts: Attempts) -> None:
        self._settings = settings
        self._log = log
        self._attempts = attempts
        self._queries = sql.queries("workers")
        self._due = 0.0
        self._worker = ""  # whom we asked for last
        #: ``work``, ``pause`` or ``drain``.
        self.standing = "work"

    @property
    def due_in(self) -> float:
        """Seconds until the next question."""
        return self._due - time.monotonic()

    def heard(self, workers: set[str]) -> None:
        """These workers have new orders, says a notification."""
        if self._attempts.worker in workers:
            self._due = 0.0

    def ask(self, conn: db.Connection, *, deaf: bool) -> bool:
        """Ask, if it is time. True where :attr:`standing` has changed.

        Raises :class:`~pgfleet.errors.LostWorker`.
        """
        worker = self._attempts.worker
        if worker != self._worker:
            if self.standing != "work":  # registered under a new id: what was told to the old one holds for it too
                db.call(conn, self._queries["order"], worker=worker, orders=self.standing)
            self._worker = worker
        elif self.due_in > 0:
            return False
        row = db.call(conn, self._queries["orders"], worker=worker).fetchone()
        orders = row[0] if row else self.standing
        self._due = time.monotonic() + (SOON if deaf else self._settings.heartbeat)
        if orders == self.standing:
            return False
        self.standing = orders
        self._log.info(EVENTS[orders], worker=worker)
        return True
