"""The heart: renews the worker's lease and rescues lost workers' tasks, from a thread or from a process of its own.

A heart follows one worker after the other (a lost one comes back under a new id) and talks with it over a
:class:`Link`: told ``follow``, ``child``, ``reaped`` and ``leave``, it says ``beat``, ``lost`` and ``left``.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from typing import Any, Protocol

import psycopg

from pgfleet import db, sql
from pgfleet.errors import DatabaseAway, LostWorker
from pgfleet.log import Logger
from pgfleet.settings import Settings
from pgfleet_worker.backoff import Backoff

#: The most tasks told of in one message; the rest at the next beat.
MOST = 500
#: The most tasks rescued in one statement, which has a heartbeat's time; a slow machine finds its own measure.
AT_ONCE = 500


class Link:
    """One end of a socket pair that carries small messages, one JSON object a line."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._rest = b""
        #: Has the other end been closed, or its process died?
        self.ended = False

    @classmethod
    def pair(cls) -> tuple[Link, Link]:
        """Two ends."""
        one, other = socket.socketpair()
        return cls(one), cls(other)

    def fileno(self) -> int:
        """To wait on."""
        return self._socket.fileno()

    def say(self, **words: Any) -> None:
        """Send; dropped where the other end has not read for hours, or is gone."""
        with contextlib.suppress(OSError):
            self._socket.send(json.dumps(words).encode() + b"\n")

    def heard(self) -> list[dict[str, Any]]:
        """What has come, without waiting."""
        try:
            while data := self._socket.recv(65536):
                self._rest += data
            self.ended = True
        except BlockingIOError:
            pass
        except OSError:
            self.ended = True
        *lines, self._rest = self._rest.split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Close this end; the other finds :attr:`ended`."""
        self._socket.close()


class Owner(Protocol):
    """The process a heart beats for, seen from another."""

    def fileno(self) -> int:
        """Readable once it is dead."""

    def is_dead(self) -> bool: ...

    def is_stopped(self) -> bool:
        """Does it stand still (SIGSTOP, a debugger)?"""


class Heart:
    """Beats until told to leave, or until its owner is dead. Without an ``owner`` it beats for its own process."""

    def __init__(self, settings: Settings, log: Logger, link: Link, owner: Owner | None = None) -> None:
        self._settings = settings
        self._log = log
        self._link = link
        self._owner = owner
        self._conn: db.Connection | None = None
        self._queries = sql.queries("workers")
        self._pause = Backoff(0.1, settings.heartbeat)
        self._worker = ""
        self._lost = False
        self._paused = False
        self._due = float("inf")
        self._renewed = time.monotonic()
        self._rescue_from = 0.0
        self._at_once = AT_ONCE
        self._groups: set[int] = set()

    def run(self) -> None:
        """Beat. Postgres may be away: it tries on. Returns when there is nothing left to beat for."""
        try:
            self._run()
        finally:
            self._link.close()

    def _run(self) -> None:
        while True:
            self._wait(self._due - time.monotonic())
            for words in self._link.heard():
                if "follow" in words:
                    self._follow(words["follow"])
                if "child" in words:
                    self._groups.add(words["child"])
                if "reaped" in words:
                    self._groups.discard(words["reaped"])
                if "leave" in words:
                    self._end("deregister")
                    return
            if self._link.ended or (self._owner is not None and self._owner.is_dead()):
                if self._owner is not None:
                    self._kill_groups()
                    self._end("abandon")
                return
            if time.monotonic() >= self._due:
                self._beat()

    def _kill_groups(self) -> None:
        """The dead worker's children die with it, by the kernel's hand; what their handlers have started would not."""
        for group in self._groups:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)

    def _wait(self, seconds: float) -> None:
        poll = select.poll()
        poll.register(self._link.fileno(), select.POLLIN)
        if self._owner is not None:
            poll.register(self._owner.fileno(), select.POLLIN)
        poll.poll(None if seconds == float("inf") else max(0.0, seconds) * 1000)

    def _follow(self, worker: str) -> None:
        """This is the worker's id from now on; it has just registered or renewed."""
        self._worker = worker
        self._lost = False
        self._renewed = time.monotonic()
        self._due = self._renewed + self._settings.heartbeat

    def _beat(self) -> None:
        now = time.monotonic()
        self._due = now + self._settings.heartbeat
        if now - self._renewed > self._settings.lease:
            # Postgres was away for us, so perhaps for all: who has just missed a lease like us is not dead. Let them
            # come back before anybody's tasks are rescued; after a restart they would all have been.
            self._rescue_from = now + self._settings.lease
        try:
            if not self._lost and not self._owner_stands_still():
                self._renew()
            if now >= self._rescue_from:
                self._rescue()
            self._pause.reset()
        except LostWorker:
            self._lost = True
        except (psycopg.Error, DatabaseAway) as error:
            wait = self._pause.next()
            self._log.warning("heartbeat.missed", worker=self._worker, error=str(error), pause=round(wait, 3))
            self._due = time.monotonic() + wait
        # Again at each beat, until it follows a new id; else, whatever came of it, that we live.
        self._link.say(**({"lost": self._worker} if self._lost else {"alive": True}))

    def _owner_stands_still(self) -> bool:
        """A worker that is stopped does not work: let its lease lapse, unless it goes on in time."""
        still = self._owner is not None and self._owner.is_stopped()
        if still and not self._paused:
            self._log.warning("heartbeat.paused", worker=self._worker)
        self._paused = still
        return still

    def _renew(self) -> None:
        row = db.call(self._connection(), self._queries["renew"], worker=self._worker).fetchone()
        self._renewed = time.monotonic()
        if row:
            self._link.say(standing=list(row))
        row = db.call(self._connection(), self._queries["orders"], worker=self._worker).fetchone()
        if row:
            orders, ids, attempts = row
            self._link.say(beat=self._worker, orders=orders, cancelled=ids[:MOST], attempts=attempts[:MOST])

    def _rescue(self) -> None:
        if self._rescue_some("rescue"):
            self._due = time.monotonic()  # the rest at once, but not before the lease has been renewed
        for id, status, node, type, attempt in self._connection().execute(self._queries["crash_parts"]):
            self._log.warning("task.node_gone", task=id, type=type, attempt=attempt, status=status, node=node)

    def _rescue_some(self, query: str, **told: str) -> bool:
        """``rescue``, or ``abandon`` our own worker; True where there may be more."""
        quantity = self._at_once
        try:
            rows = db.call(self._connection(), self._queries[query], quantity=quantity, **told).fetchall()
        except psycopg.errors.QueryCanceled:
            self._at_once = max(1, quantity // 2)
            raise
        self._at_once = min(AT_ONCE, quantity + quantity // 8 + 1)
        for id, status, worker, type, attempt in rows:
            self._log.warning("task.rescued", task=id, type=type, attempt=attempt, status=status, lost_worker=worker)
        return len(rows) == quantity

    def _end(self, query: str) -> None:
        """Leave the fleet for the worker: ``deregister`` it, or ``abandon`` it where it died holding tasks.

        Tried until its lease has lapsed by itself: then others have rescued what it held.
        """
        died = False
        while self._worker and not self._lost:
            try:
                if query == "deregister":
                    db.call(self._connection(), self._queries[query], worker=self._worker)
                    break
                if not died:
                    self._log.error("worker.died", worker=self._worker)
                    died = True
                if not self._rescue_some(query, worker=self._worker):
                    break
            except LostWorker:
                break
            except (psycopg.Error, DatabaseAway) as error:
                self._link.say(left=False, error=str(error))
                if self._owner is None or time.monotonic() - self._renewed > self._settings.lease:
                    return
                time.sleep(self._pause.next())
        self._link.say(left=True)
        if self._conn is not None:
            self._conn.close()

    def _connection(self) -> db.Connection:
        if self._conn is None or self._conn.closed:
            # What a crash of Postgres can lose here is a heartbeat; the next one is seconds away. And a rescue that
            # waits for a lock on `tasks` (somebody builds an index) must not keep this worker from renewing.
            beat = self._settings.heartbeat * 1000
            # A dead link must be noticed while there is time left to connect anew and renew.
            self._conn = db.connect(
                self._settings,
                "pgfleet heartbeat",
                engine=True,
                patience=min(self._settings.answer_timeout, max(1.0, self._settings.lease / 4)),
                synchronous_commit="off",
                lock_timeout=f"{beat / 2:.0f}ms",
                statement_timeout=f"{beat:.0f}ms",
            )
        return self._conn
