"""The lease: one row for the process, renewed by a thread and a connection of its own, the last thing to stop."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable
from datetime import timedelta

import psycopg

from pgfleet import __version__, db, sql
from pgfleet.errors import DatabaseAway, LostWorker
from pgfleet.log import Logger
from pgfleet.settings import Settings
from pgfleet_worker.backoff import Backoff
from pgfleet_worker.handler import Handler


def new_worker_id(nickname: str) -> str:
    """``nickname:UUID``, or the bare UUID; never the same twice."""
    return f"{nickname}:{uuid.uuid4()}" if nickname else str(uuid.uuid4())


class Lease:
    """Registers this process and keeps its lease; ``on_lost()`` is called once a rescuer has declared it lost."""

    def __init__(self, settings: Settings, log: Logger, on_lost: Callable[[], None]) -> None:
        self._settings = settings
        self._log = log
        self._on_lost = on_lost
        self._stop = threading.Event()
        self._conn: db.Connection | None = None
        self._queries = sql.queries("workers")
        self._thread: threading.Thread | None = None
        self.worker = ""
        self.lost = False
        #: This worker's place among the live ones, and their number; as of the last heartbeat.
        self.place, self.alive = 0, 1

    def register(self, conn: db.Connection, handlers: Iterable[Handler]) -> str:
        """Register under a new id, with the types served; answers the id. The heartbeat begins with the first call."""
        handlers = list(handlers)
        for handler in sorted(handlers, key=lambda h: h.type):
            db.call(
                conn,
                self._queries["register_type"],
                name=handler.type,
                description=handler.description,
                for_readers=handler.for_readers,
                max_retries=handler.max_retries,
                retry_delay=handler.retry_delay,
                timeout=None,
            )
        worker = new_worker_id(self._settings.nickname)
        db.call(
            conn,
            self._queries["register"],
            worker=worker,
            node=self._settings.node,
            types=sorted(handler.type for handler in handlers),
            concurrency=self._settings.concurrency,
            lease=timedelta(seconds=self._settings.lease),
            version=__version__,
        )
        self.worker = worker
        self.lost = False
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep, name="heartbeat", daemon=True)
            self._thread.start()
        return worker

    def renew(self, conn: db.Connection) -> None:
        """Renew at once, over ``conn``: after a reconnect a claim needs a lease that has not lapsed."""
        row = db.call(conn, self._queries["renew"], worker=self.worker).fetchone()
        if row:
            self.place, self.alive = row

    def end(self) -> None:
        """Stop the heartbeat and leave the fleet: what the worker still holds is free for others at once."""
        self._stop.set()
        if self._thread is None:
            return
        self._thread.join(self._settings.database_timeout)
        if self._thread.is_alive():
            self._log.warning("worker.not_deregistered", error="the last heartbeat is still under way")
            return
        try:
            db.call(self._connection(), self._queries["deregister"], worker=self.worker)
        except (psycopg.Error, DatabaseAway) as error:
            self._log.warning("worker.not_deregistered", error=str(error))  # its lease will lapse
        if self._conn is not None:
            self._conn.close()

    def _connection(self) -> db.Connection:
        if self._conn is None or self._conn.closed:
            # What a crash of Postgres can lose here is a heartbeat; the next one is seconds away. And a rescue that
            # waits for a lock on `tasks` (somebody builds an index) must not keep this worker from renewing.
            beat = self._settings.heartbeat * 1000
            self._conn = db.connect(
                self._settings,
                "pgfleet heartbeat",
                engine=True,
                synchronous_commit="off",
                lock_timeout=f"{beat / 2:.0f}ms",
                statement_timeout=f"{beat:.0f}ms",
            )
        return self._conn

    def _keep(self) -> None:
        pause = Backoff(0.1, self._settings.heartbeat)
        due = time.monotonic() + self._settings.heartbeat
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            worker = self.worker
            try:
                if not self.lost:
                    self.renew(self._connection())
                due = time.monotonic() + self._settings.heartbeat
                self._rescue()
                pause.reset()
            except LostWorker:
                if worker == self.worker:  # else the loop has noticed first, and registered anew
                    self.lost = True
                    self._on_lost()
            except (psycopg.Error, DatabaseAway) as error:
                wait = pause.next()
                self._log.warning("heartbeat.missed", error=str(error), pause=round(wait, 3))
                due = time.monotonic() + wait

    def _rescue(self) -> None:
        for id, status, worker, type, attempt in self._connection().execute(self._queries["rescue"]):
            self._log.warning("task.rescued", task=id, type=type, attempt=attempt, status=status, lost_worker=worker)
