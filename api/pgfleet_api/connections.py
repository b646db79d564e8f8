"""The API's connections to Postgres: as many as there are requests at once, kept between them.

Not psycopg_pool: its requests wait for a connection until a timeout while Postgres is away, and it comes back by a
backoff of its own. Here a request connects by itself where no idle connection is left, so that an absent database is
known at once (503) and a returned one at the next request.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg.pq import TransactionStatus

from pgfleet import db
from pgfleet.errors import DatabaseAway
from pgfleet.settings import Settings


class Connections:
    """At most ``settings.api_threads`` connections in autocommit, made when they are needed. Thread- and fork-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._places = threading.BoundedSemaphore(settings.api_threads)
        # The last used first: what a quiet hour doesn't need stays idle, and prepared statements stay warm.
        self._idle: deque[db.Patient] = deque()
        self._pid = os.getpid()
        self._away = False
        self._probing = threading.Lock()

    @contextmanager
    def take(self) -> Iterator[db.Patient]:
        """A working connection for this block. Raises :class:`~pgfleet.errors.DatabaseAway`, without waiting for it."""
        conn = self.take_one()
        try:
            yield conn
        finally:
            self.give_back(conn)

    def take_one(self) -> db.Patient:
        """A working connection, to be given back. Raises as :meth:`take`."""
        if not self._places.acquire(timeout=self._settings.database_timeout):
            raise DatabaseAway("All connections to the database are busy.")
        try:
            return self._idle_one() or self._new_one()
        except BaseException:
            self._places.release()
            raise

    def take_idle(self) -> db.Patient | None:
        """As :meth:`take_one`, but only what is at hand; never waits."""
        if not self._places.acquire(blocking=False):
            return None
        conn = None
        try:
            conn = self._idle_one()
        finally:
            if conn is None:
                self._places.release()
        return conn

    def give_back(self, conn: db.Patient) -> None:
        """Whoever took ``conn`` needs it no more."""
        try:
            if conn.silent:
                self._away = True  # one at a time finds out whether it answers again...
                self.close()  # ...and the others would be as silent
            elif conn.info.transaction_status == TransactionStatus.IDLE:
                self._idle.append(conn)
            else:  # lost, or its transaction was left open
                conn.close()
        finally:
            self._places.release()

    def close(self) -> None:
        """Close the idle connections; those in use close when the process ends."""
        while self._idle:
            self._idle.pop().close()

    def _idle_one(self) -> db.Patient | None:
        if self._pid != os.getpid():  # after a fork: the parent's sockets are not ours (psycopg leaves them open)
            self._idle.clear()
            self._pid = os.getpid()
        while True:
            try:
                conn = self._idle.pop()
            except IndexError:
                return None
            if not _spoken_to(conn):
                return conn
            conn.close()

    def _new_one(self) -> db.Patient:
        # While Postgres is away one request at a time finds out whether it is back; where it doesn't even refuse
        # (a dead host), the others don't have to wait for a timeout each.
        probing = self._away
        if probing and not self._probing.acquire(blocking=False):
            raise DatabaseAway("The database is away.")
        try:
            conn = db.connect(self._settings, "pgfleet api", patience=self._settings.answer_timeout)
            self._away = False
            return conn
        except DatabaseAway:
            self._away = True
            raise
        finally:
            if probing:
                self._probing.release()


def _spoken_to(conn: db.Connection) -> bool:
    """Has an idle connection something to read? Then it is its end: Postgres went away since it was last used."""
    if conn.closed:
        return True
    poll = select.poll()
    poll.register(conn.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))
