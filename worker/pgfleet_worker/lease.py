"""The lease: one row for the process, renewed by its heart, the last thing to stop.

The heart beats in the keeper, a process of its own (:mod:`keeper`), or where there is none in a thread.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
import uuid
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from pgfleet import __version__, db, sql
from pgfleet.log import Logger
from pgfleet.settings import Settings
from pgfleet_worker.handler import Handler
from pgfleet_worker.heart import Heart, Link
from pgfleet_worker.keeper import Keeper
from pgfleet_worker.part import Part
from pgfleet_worker.turns import Standing


def new_worker_id(nickname: str) -> str:
    """``nickname:UUID``, or the bare UUID; never the same twice."""
    return f"{nickname}:{uuid.uuid4()}" if nickname else str(uuid.uuid4())


class Lease:
    """Registers this process and has its lease kept: by ``keeper``, or a thread where there is none or it has died.

    For the loop's thread alone, but for :meth:`say`.
    """

    def __init__(self, settings: Settings, log: Logger, keeper: Keeper | None = None) -> None:
        self._settings = settings
        self._log = log
        self._keeper = keeper
        self._link = keeper.link if keeper is not None else self._begin_thread()
        self._queries = sql.queries("workers")
        self._heard = self._listened = time.monotonic()
        self._leaving = False
        self._left: bool | None = None
        self.worker = ""
        #: Has a rescuer declared this worker lost?
        self.lost = False
        #: As of the last heartbeat.
        self.standing = Standing()

    def fileno(self) -> int:
        """Readable when the heart has said something: see :meth:`hear`."""
        return self._link.fileno()

    def say(self, **words: Any) -> None:
        """Tell the heart; from any thread."""
        self._link.say(**words)

    def register(self, conn: db.Connection, handlers: Iterable[Handler]) -> str:
        """Register under a new id, with the types served; answers the id. From now on the heart renews its lease."""
        handlers = list(handlers)
        self.register_types(conn, handlers)
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
            only_targeted=self._settings.only_targeted,
            schedules=self._settings.schedules,
        )
        if not self.worker:
            self._heard = time.monotonic()  # until now the heart had nothing to say
        self.worker = worker
        self.lost = False
        self._link.say(follow=worker)
        return worker

    def register_types(self, conn: db.Connection, handlers: Iterable[Handler]) -> None:
        """Make the handlers' types known; one that is known stays as it is."""
        for handler in sorted(handlers, key=lambda h: h.type):
            db.call(
                conn,
                self._queries["register_type"],
                name=handler.type,
                description=handler.description,
                for_readers=handler.for_readers,
                max_retries=handler.max_retries,
                retry_delay=handler.retry_delay,
                timeout=handler.timeout,
                max_running=handler.max_running,
            )

    def renew(self, conn: db.Connection) -> None:
        """Renew at once, over ``conn``: after a reconnect a claim needs a lease that has not lapsed."""
        row = db.call(conn, self._queries["renew"], worker=self.worker).fetchone()
        if row:
            self.standing = Standing(*row)

    def hear(self) -> list[dict[str, Any]]:
        """Take in what the heart has said, and answer it; see that it lives."""
        now = time.monotonic()
        # It may take the heart a while to connect, but not as long as this.
        patience = self._settings.lease + 2 * self._settings.database_timeout
        if now - self._listened > patience:
            self._heard = now  # we stood still ourselves, and the heart perhaps with us
        self._listened = now
        said = self._link.heard()
        for words in said:
            self._heard = now
            if "standing" in words:
                self.standing = Standing(*words["standing"])
            if words.get("lost") == self.worker:
                self.lost = True
            if "left" in words:
                self._left = words["left"]
                if not self._left:
                    self._log.warning("worker.not_deregistered", error=words["error"])
        if self._keeper is not None and not self._leaving:
            if self._link.ended:
                self._replace_keeper(self._keeper, "dead")
            elif self.worker and now - self._heard > patience:
                self._replace_keeper(self._keeper, "silent")
        return said

    def end(self) -> None:
        """Leave the fleet: what the worker still holds is free for others at once."""
        self._leaving = True
        self._link.say(leave=True)
        deadline = time.monotonic() + self._settings.database_timeout
        while self._left is not False and not self._link.ended and time.monotonic() < deadline:
            self._wait(deadline - time.monotonic())
            self.hear()
        if self._left is None:
            self._log.warning("worker.not_deregistered", error="the heart did not answer")
        self._link.close()
        if self._keeper is not None and self._link.ended:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._keeper.pid, 0)

    def _wait(self, seconds: float) -> None:
        poll = select.poll()
        poll.register(self._link.fileno(), select.POLLIN)
        poll.poll(max(0.0, seconds) * 1000)

    def _begin_thread(self) -> Link:
        ours, theirs = Link.pair()
        heart = Heart(self._settings, self._log, theirs)
        Part(target=heart.run, name="heartbeat").start()
        return ours

    def _replace_keeper(self, keeper: Keeper, why: str) -> None:
        """A new one can't be forked: by now there are threads. One of them has to do."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(keeper.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(keeper.pid, 0)
        self._log.warning("keeper.lost", worker=self.worker, keeper=keeper.pid, why=why)
        self._keeper = None
        self._link.close()
        self._link = self._begin_thread()
        if self.worker:
            self._link.say(follow=self.worker)
