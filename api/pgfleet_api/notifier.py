"""NOTIFY after the commit: many ids in one round trip, from one thread, without any request waiting for it.

A NOTIFY inside the inserting transaction takes an instance-wide lock until that commit is flushed (32 clients fell from
19,300 to 3,500 inserts/s). So inserts commit first, and tell the fleet then, in the same round trip
(:meth:`Notifier.take_turn`): a task of an idle API starts half a millisecond sooner. Where that wakes many workers, only the
first after a pause does; the ids of those that follow are handed over here, go out together and no request waits for them.
What can't be sent is dropped: a notification is a hint, and the workers' own look at the table finds the task.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Sequence

import psycopg

from pgfleet import db, log, tasks
from pgfleet.errors import PgfleetError
from pgfleet.settings import Settings

#: Ids kept while Postgres is slow to answer; older ones are dropped. Any one of them wakes a worker.
MOST_WAITING = 10_000

#: Sleepers that every insert may wake by itself. To look whether any sleep costs it less than this thread's round trip
#: costs the server: a tenth of what it serves.
FEW = 2

#: Seconds between two round trips where more of them sleep: a lone id never waits, and a busy API does not spend a third of
#: its time on hints. Each is woken by every notification: the more of them, the fewer, with more ids in each.
PAUSE = 0.005
PAUSE_PER_SLEEPER = 50e-6
MOST_PAUSE = 0.02


class Notifier:
    """One thread a process, with a connection of its own, started by the first id. Thread- and fork-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._log = log.get()
        self._conn: db.Connection | None = None
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._ids: deque[int] = deque(maxlen=MOST_WAITING)
        self._wake = threading.Condition(threading.Lock())
        self._stopping = False
        self._due = 0.0  # when, on the monotonic clock, the fleet may be told again
        self._thread: threading.Thread | None = None

    def tell(self, ids: Sequence[int]) -> None:
        """Tell the fleet of tasks that were inserted and committed; returns at once."""
        if not ids:
            return
        self.start()
        with self._wake:
            self._ids.extend(ids)
            self._wake.notify()

    def take_turn(self) -> bool:
        """May the caller tell the fleet of its tasks by itself, now? Then it says by :meth:`told` that it has."""
        self.start()
        with self._wake:
            now = time.monotonic()
            if self._ids or now < self._due:
                return False
            self._due = now + PAUSE
            return True

    def told(self, sleepers: int) -> None:
        """The fleet has just been told of tasks, and so many of its workers slept."""
        self._pause(0.0 if sleepers <= FEW else _pause_after(sleepers))

    def _pause(self, seconds: float) -> None:
        with self._wake:
            self._due = time.monotonic() + seconds

    def start(self) -> None:
        """Start the thread where it does not run in this process yet, so that the first id need not wait for that."""
        if self._pid != os.getpid():  # after a fork: the thread stayed in the parent, and so does its connection
            self._conn = None
            self._begin()
        if self._thread is None:
            with self._wake:
                if self._thread is None and not self._stopping:
                    self._thread = threading.Thread(target=self._run, name="pgfleet-notifier", daemon=True)
                    self._thread.start()

    def stop(self, timeout: float = 2.0) -> None:
        """Send what is waiting and end the thread, within ``timeout`` seconds."""
        if self._pid != os.getpid():
            return
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        self._send([])  # connect before the first id comes
        while True:
            with self._wake:
                while not self._ids and not self._stopping:
                    self._wake.wait()
                if not self._ids:
                    break
            pause = self._due - time.monotonic()
            if pause > 0 and not self._stopping:
                time.sleep(pause)
            with self._wake:
                batch = list(self._ids)
                self._ids.clear()
            self._pause(_pause_after(self._send(batch)))
        if self._conn is not None:
            self._conn.close()

    def _send(self, ids: list[int]) -> int:
        """Answers how many workers sleep."""
        try:
            if self._conn is None or self._conn.closed:
                # A crash of Postgres may lose this commit, which holds nothing: there is no flush to wait for.
                patience = self._settings.answer_timeout
                self._conn = db.connect(
                    self._settings, "pgfleet api notifier", patience=patience, synchronous_commit="off"
                )
            return tasks.notify(self._conn, ids)
        except (PgfleetError, psycopg.Error) as error:
            if ids:
                self._log.warning("notification.dropped", tasks=len(ids), error=str(error))
            if self._conn is not None:
                self._conn.close()
            return 0


def _pause_after(sleepers: int) -> float:
    return min(PAUSE + sleepers * PAUSE_PER_SLEEPER, MOST_PAUSE)
