"""What the table says that this worker holds, and it does not know of: claims whose answers were lost with a connection.

Looked for after every reconnect and once a lease. The look walks the index entries of all that the worker has started,
most of them dead: 184 ms after 20 s at 30,000 tasks/s, in which the claims' connection claimed nothing. So a worker that has
settled many since looks over a connection of its own, beside its work.
"""

from __future__ import annotations

import time
from datetime import timedelta

import psycopg

from pgfleet import db, sql
from pgfleet.errors import DatabaseAway
from pgfleet.log import Logger
from pgfleet.settings import Settings
from pgfleet_worker.attempt import Attempts
from pgfleet_worker.part import Part
from pgfleet_worker.room import Room

#: After so many settles since the last look the next one is made beside the work. 0.3 µs each: 3 ms.
MANY = 10_000


class Unheld:
    """The loop's thread calls it, while no claim is on its way."""

    def __init__(self, settings: Settings, log: Logger, attempts: Attempts, room: Room) -> None:
        self._settings = settings
        self._log = log
        self._attempts = attempts
        self._room = room
        self._queries = sql.queries("workers")
        self._due = 0.0
        self._settled = 0
        self._look: Part | None = None
        self._found: list[tuple[int, int]] = []

    def begin_anew(self) -> None:
        """After a reconnect: look at once."""
        self._due = 0.0

    def tend(self, conn: db.Connection) -> None:
        """Look when it is time, and free what was found."""
        if self._look is not None and not self._look.is_alive():
            self._look = None
            self._release(conn)
        if time.monotonic() < self._due:
            return
        at_once, self._due = self._due == 0.0, time.monotonic() + self._settings.lease
        settled, self._settled = self._room.settled - self._settled, self._room.settled
        if at_once or settled < MANY:
            row = conn.execute(self._queries["release_unheld"], self._arguments()).fetchone()
            self._tell(row[0] if row else 0)
        elif self._look is None:
            self._found = []
            self._look = Part(target=self._look_beside, name="unheld", args=self._arguments())
            self._look.start()

    def _arguments(self) -> tuple[str, list[int], list[int]]:
        held = list(self._room.held.copy().items())
        return self._attempts.worker, [id for id, _ in held], [attempt for _, (attempt, _) in held]

    def _look_beside(self, worker: str, ids: list[int], attempts: list[int]) -> None:
        try:
            with db.connect(self._settings, "pgfleet unheld", engine=True) as conn:
                self._found = conn.execute(self._queries["unheld"], (worker, ids, attempts)).fetchall()
        except (psycopg.Error, DatabaseAway):
            return  # the next look is a lease away, or at once where the claims' connection is gone, too

    def _release(self, conn: db.Connection) -> None:
        """Of what was found, what is still unknown here: the look may have seen claims that were made after it began.

        What was claimed and settled meanwhile, or is another worker id's by now, the fence leaves alone.
        """
        held = self._room.held
        unheld = [(id, attempt) for id, attempt in self._found if held.get(id, (None,))[0] != attempt]
        self._found = []
        if unheld:
            fences = [id for id, _ in unheld], [attempt for _, attempt in unheld]
            row = conn.execute(self._queries["release"], (self._attempts.worker, *fences, timedelta(0))).fetchone()
            self._tell(row[0] if row else 0)

    def _tell(self, tasks: int) -> None:
        if tasks:
            self._log.warning("task.unheld", worker=self._attempts.worker, tasks=tasks)
