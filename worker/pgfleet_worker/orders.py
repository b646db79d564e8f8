"""Orders: what operators want of this worker, and which of its running tasks somebody wants cancelled.

Asked for when a notification names this worker, and each second where none gets through. In case one was missed the
heart asks too, at each beat, and tells.
"""

from __future__ import annotations

import time
from typing import Any

from pgfleet import db, sql
from pgfleet.log import Logger
from pgfleet_worker.attempt import Attempts

#: Seconds between two questions while no notification reaches this worker, or while a task that was called off still runs.
SOON = 1.0
#: What is logged of each order.
EVENTS = {"work": "worker.resumed", "pause": "worker.paused", "drain": "worker.draining"}


class Orders:
    """What this worker was told last. For the loop's thread alone."""

    def __init__(self, log: Logger, attempts: Attempts) -> None:
        self._log = log
        self._attempts = attempts
        self._queries = sql.queries("workers")
        self._due = 0.0
        self._worker = ""  # whom we asked for last
        #: ``work``, ``pause`` or ``drain``.
        self.standing = "work"
        #: Were tasks called off that we hold and that have not begun?
        self.unstarted = False

    @property
    def due_in(self) -> float:
        """Seconds until the next question."""
        return self._due - time.monotonic()

    def heard(self, workers: set[str]) -> None:
        """These workers have new orders, says a notification."""
        if self._attempts.worker in workers:
            self._due = 0.0

    def told(self, words: dict[str, Any]) -> None:
        """What the heart said: a task to be cancelled is as good as asked for, an order may be older than ours."""
        if words.get("beat") == self._attempts.worker:
            if words["orders"] != self.standing:
                self._due = 0.0
            self._cancel(words["cancelled"], words["attempts"])

    def _cancel(self, ids: list[int], attempts: list[int]) -> None:
        running = [self._attempts.cancel(id, attempt, "cancelled") for id, attempt in zip(ids, attempts, strict=True)]
        self.unstarted = not all(running)

    def ask(self, conn: db.Connection, *, deaf: bool) -> bool:
        """Ask, if it is time, and cancel what is to be cancelled. True where :attr:`standing` has changed.

        Raises :class:`~pgfleet.errors.LostWorker`.
        """
        worker = self._attempts.worker
        if worker != self._worker:
            self._inherit(conn, worker)
            self._worker = worker
        elif self.due_in > 0:
            return False
        row = db.call(conn, self._queries["orders"], worker=worker).fetchone()
        orders, ids, attempts = row or (self.standing, [], [])
        self._cancel(ids, attempts)
        self._due = time.monotonic() + (SOON if deaf or ids else float("inf"))
        if orders == self.standing:
            return False
        self.standing = orders
        self._log.info(EVENTS[orders], worker=worker)
        return True

    def _inherit(self, conn: db.Connection, worker: str) -> None:
        """Registered under a new id: what was told to the old one last holds for it too, heard or not."""
        row = db.call(conn, self._queries["last_orders"], worker=self._worker).fetchone()
        last = row[0] if row else self.standing
        if last != "work":
            db.call(conn, self._queries["order"], worker=worker, orders=last)
