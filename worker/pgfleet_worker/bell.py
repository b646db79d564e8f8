"""The bell: this worker's ear on ``task_created``, the tasks of its node, ``worker_orders`` and ``schedules_changed``, and what
wakes its loop from the inside."""

from __future__ import annotations

import hashlib
import select
import socket
import time
import uuid
from typing import Protocol

from psycopg.sql import SQL, Identifier

from pgfleet import db, sql
from pgfleet.housekeeping import NAMES
from pgfleet.settings import Settings

#: More ids than this in one burst: the loop walks the queue instead of looking each up.
MOST_IDS = 1000
#: Seconds of silence, at most, after which the connection is asked whether it is still there: a half-open socket never says.
PROBE = 10.0


class Source(Protocol):
    """Something else that may have news."""

    def fileno(self) -> int: ...


class Bell:
    """A LISTEN connection, once :meth:`connect` has made it, a socket pair, and ``others`` that end the wait."""

    def __init__(self, settings: Settings, *others: Source) -> None:
        self._settings = settings
        self._others = others
        self._conn: db.Connection | None = None
        self._inner, self._outer = socket.socketpair()
        self._inner.setblocking(False)
        self._outer.setblocking(False)
        self._probe = min(PROBE, settings.answer_timeout)
        self._heard = 0.0
        #: Set while the loop waits: whoever has news then rings, else the loop will look anyway.
        self.waiting = False
        #: Did the last wait end for another reason than a notification, or its time?
        self.rung = False
        self._watched: tuple[int, ...] = ()
        self._poll = select.poll()
        self._heard_ids: list[int] = []
        self._own_ids: list[int] = []
        self._own = f"node_tasks_{hashlib.sha256(settings.node.encode()).hexdigest()[:40]}"  # as in notify_tasks.sql
        self._echo: str | None = None
        self._overflow = False
        self._called: set[str] = set()
        self._rescheduled = False

    def connect(self) -> bool:
        """LISTEN, on a new connection; then test that a NOTIFY comes through. False: it doesn't (a pooler between)."""
        self.disconnect()
        self._conn = db.connect(self._settings, "pgfleet listen", engine=True)
        self._conn.add_notify_handler(lambda note: self._take(note.channel, note.payload))
        self._conn.execute(sql.queries("workers")["listen"])
        self._conn.execute(SQL("listen {}").format(Identifier(self._own)))
        self._heard = time.monotonic()
        return self._hears()

    def disconnect(self) -> None:
        """Close the LISTEN connection."""
        if self._conn is not None:
            self._conn.close()
        self._conn = None

    def close(self) -> None:
        """Close everything."""
        self.disconnect()
        self._inner.close()
        self._outer.close()

    def fileno(self) -> int:
        """The socket that :meth:`ring` writes to; a signal's wake-up fd too."""
        return self._outer.fileno()

    def ring(self) -> None:
        """End the wait, from any thread."""
        self.waiting = False
        try:
            self._outer.send(b"\0")
        except (BlockingIOError, OSError):
            return  # full: it has been rung already; closed: nobody waits

    def wait(self, timeout: float) -> list[int]:
        """Wait until notified, rung or ``timeout`` seconds have passed; answers the ids notified.

        Raises what psycopg raises where the connection is lost.
        """
        watched = self._inside()
        self._own_ids = []
        ear = -1
        if self._conn is not None:
            ear = self._conn.fileno()
            watched.append(ear)
            timeout = min(timeout, self._probe)
        ready = self._wait(watched, timeout)
        self.waiting = False
        self.rung = not ready <= {ear}
        if self._inner.fileno() in ready:
            self._drain()
        if self._conn is None:
            return []
        if ear in ready:
            self._heard = time.monotonic()
            return self._ids()
        if time.monotonic() - self._heard > self._probe:
            self._conn.execute("")
            self._heard = time.monotonic()
            return self._ids()
        return []

    def overflowed(self) -> bool:
        """Did a burst since the last call hold more ids than are worth looking up one by one?"""
        overflow, self._overflow = self._overflow, False
        return overflow

    def own(self) -> list[int]:
        """The tasks that name this worker's node, as heard in the last :meth:`wait`, which answered them, too."""
        return self._own_ids[:MOST_IDS]

    def called(self) -> set[str]:
        """The workers that have new orders, as heard since the last call."""
        called, self._called = self._called, set()
        return called

    def rescheduled(self) -> bool:
        """Have schedules changed, as heard since the last call? Those of the fleet's own are looked for now and then."""
        rescheduled, self._rescheduled = self._rescheduled, False
        return rescheduled

    def doze(self, timeout: float) -> None:
        """Wait until rung or ``timeout`` seconds have passed, deaf to Postgres: for while it is away."""
        ready = self._wait(self._inside(), timeout)
        self.waiting = False
        if self._inner.fileno() in ready:
            self._drain()

    def _inside(self) -> list[int]:
        return [self._inner.fileno(), *(other.fileno() for other in self._others)]

    def _drain(self) -> None:
        try:
            while len(self._inner.recv(4096)) == 4096:
                pass
        except BlockingIOError:
            return

    def _ids(self) -> list[int]:
        self._read()
        ids, self._heard_ids = self._heard_ids, []
        self._overflow = self._overflow or len(ids) > MOST_IDS
        return ids[:MOST_IDS]

    def _read(self) -> None:
        # Past psycopg's `notifies()`, which takes a tenth of a millisecond after a pause, and a task waits for it.
        assert self._conn is not None  # noqa: S101
        pgconn = self._conn.pgconn
        pgconn.consume_input()
        while (note := pgconn.notifies()) is not None:
            self._take(note.relname.decode(), note.extra.decode())

    def _take(self, channel: str, payload: str) -> None:
        if channel == "worker_orders":
            self._called.add(payload)
        elif channel == "schedules_changed":
            self._rescheduled = self._rescheduled or payload not in NAMES
        elif channel == self._echo:
            self._echo = None
        elif payload.isdecimal() and len(payload) < 19:
            (self._own_ids if channel == self._own else self._heard_ids).append(int(payload))

    def _hears(self) -> bool:
        assert self._conn is not None  # noqa: S101
        until = time.monotonic() + min(2.0, self._settings.answer_timeout / 2)
        self._echo = f"pgfleet_{uuid.uuid4().hex}"
        channel = Identifier(self._echo)
        self._conn.execute(SQL("listen {}").format(channel))
        with db.connect(self._settings, "pgfleet self-test", engine=True) as other:
            other.execute(SQL("notify {}").format(channel))
        while self._echo is not None and time.monotonic() < until:
            if self._wait([self._conn.fileno()], until - time.monotonic()):
                self._read()
        heard, self._echo = self._echo is None, None
        self._conn.execute(SQL("unlisten {}").format(channel))
        return heard

    def _wait(self, fds: list[int], timeout: float) -> set[int]:
        """Those of ``fds`` that can be read within ``timeout`` seconds. By poll: select knows no descriptor above 1023."""
        watched = tuple(fds)
        if watched != self._watched:
            self._watched, self._poll = watched, select.poll()
            for fd in watched:
                self._poll.register(fd, select.POLLIN)
        return {fd for fd, _ in self._poll.poll(max(0.0, timeout) * 1000)}
