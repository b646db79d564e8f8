"""NOTIFY after the commit: many ids in one round trip, from one thread, without any request waiting for it.

A NOTIFY inside the inserting transaction takes an instance-wide lock until that commit is flushed (32 clients fell from
19,300 to 3,500 inserts/s). So inserts commit first, and tell the fleet then, in the same round trip
(:meth:`Notifier.take_turn`): a task of an idle API starts half a millisecond sooner. Where that wakes many workers, only the
first of its type (and node) after a pause does; the ids of those that follow are handed over here, and no request waits for
them. Who leads a crowd looks meanwhile for what comes next (:mod:`pgfleet.crowd`), so it is told only of what nobody has
claimed by then. What can't be sent is dropped: a notification is a hint, and the workers' own look at the table finds the
task.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import chain

import psycopg

from pgfleet import db, log, tasks
from pgfleet.crowd import CROWD, quiet_after
from pgfleet.errors import PgfleetError
from pgfleet.settings import Settings

#: Ids kept of a kind while Postgres is slow to answer; older ones are dropped. Any one of them wakes a worker.
MOST_WAITING = 10_000

#: Seconds between two round trips, at least: a busy API does not spend a third of its time on hints. Where few sleep, every
#: insert may wake them by itself: to look whether any do costs it less than this thread's round trip costs the server, a
#: tenth of what it serves.
PAUSE = 0.005
#: A task younger than this part of the pause is about to be claimed by those who look, and is asked for the next time.
YOUNG = 0.25
#: Ids told at once: at first, and, twice as many each time, as long as there are others. And looked up for that, of each kind.
FIRST_TOLD, MOST_TOLD = 8, 64
MOST_ASKED = 500
#: Kinds remembered; those whose pause is over are forgotten beyond.
MOST_KINDS = 1000

#: What tells apart who may take a task: its type, and its node if it names one.
Kind = tuple[str, str | None]


@dataclass
class _Line:
    """The tasks of one kind: when the fleet may be told of them, and those that wait for it."""

    #: When, on the monotonic clock, the fleet may be told again; how many of it slept when it was told last.
    due: float = 0.0
    sleepers: int = 0
    #: How many to tell of then.
    most: int = FIRST_TOLD
    #: Their ids, and when each came; 0 where it was asked for before.
    waiting: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=MOST_WAITING))

    def pause(self, least: float = 0.0) -> None:
        self.due = time.monotonic() + max(least, quiet_after(self.sleepers))

    @property
    def ready_at(self) -> float:
        """When the first of the waiting may be told of."""
        return max(self.due, self.waiting[0][1] + self._age)

    @property
    def _age(self) -> float:
        return quiet_after(self.sleepers) * YOUNG if self.sleepers > CROWD else 0.0

    def take(self, now: float) -> dict[int, bool]:
        """Those of the waiting that are old enough, which wait no longer: their ids, and was each asked for before?"""
        taken: dict[int, bool] = {}
        while self.waiting and len(taken) < MOST_ASKED and self.waiting[0][1] + self._age <= now:
            id, came = self.waiting.popleft()
            taken[id] = not came
        return taken

    def choose(self, taken: dict[int, bool], unclaimed: list[int], *, last: bool) -> list[int]:
        """Of those ``taken`` that are ``unclaimed``, whom to tell of; the others wait on, unless this is the last time."""
        progress = len(unclaimed) < len(taken)
        told = unclaimed if last else [id for id in unclaimed if taken[id] or not progress][: self.most]
        self.most = min(2 * self.most, MOST_TOLD) if told else FIRST_TOLD
        left = set(unclaimed).difference(told)
        self.waiting.extendleft((id, 0.0) for id in reversed(unclaimed) if id in left)
        return told


class Notifier:
    """One thread a process, with a connection of its own, started by the first id. Thread- and fork-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._log = log.get()
        self._conn: db.Connection | None = None
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lines: dict[Kind, _Line] = {}
        self._wake = threading.Condition(threading.Lock())
        self._stopping = False
        self._thread: threading.Thread | None = None

    def tell(self, news: Sequence[tuple[int, Kind]]) -> None:
        """Tell the fleet of tasks that were inserted and committed: of each, its id and its kind. Returns at once."""
        if not news:
            return
        self.start()
        with self._wake:
            now = time.monotonic()
            for id, kind in news:
                line = self._line(kind)
                if not line.waiting:
                    self._wake.notify()
                line.waiting.append((id, now))

    def take_turn(self, kinds: Collection[Kind]) -> bool:
        """May the caller tell the fleet of its tasks by itself, now? Then it says by :meth:`told` that it has."""
        self.start()
        with self._wake:
            now = time.monotonic()
            lines = [self._line(kind) for kind in kinds]
            if not any(now >= line.due and not line.waiting for line in lines):
                return False
            for line in lines:
                line.due = max(line.due, now + PAUSE)
            return True

    def told(self, kinds: Collection[Kind], sleepers: int) -> None:
        """The fleet has just been told of tasks, and so many of its workers slept."""
        with self._wake:
            for kind in kinds:
                line = self._line(kind)
                line.sleepers = sleepers
                line.pause()

    def _line(self, kind: Kind) -> _Line:
        line = self._lines.get(kind)
        if line is None:
            if len(self._lines) >= MOST_KINDS:
                now = time.monotonic()
                self._lines = {k: line for k, line in self._lines.items() if line.waiting or line.due > now}
            line = self._lines[kind] = _Line()
        return line

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
        self._tell({})  # connect before the first id comes
        while ready := self._ready():
            self._tell(ready)
        if self._conn is not None:
            self._conn.close()

    def _ready(self) -> dict[Kind, dict[int, bool]]:
        """Wait until there is something to tell; nothing at the end."""
        with self._wake:
            while True:
                now = time.monotonic()
                at = min((line.ready_at for line in self._lines.values() if line.waiting), default=float("inf"))
                if at <= now or self._stopping:
                    break
                self._wake.wait(min(at - now, threading.TIMEOUT_MAX))
            until = float("inf") if self._stopping else now
            ready = [(kind, line) for kind, line in self._lines.items() if line.waiting and line.ready_at <= until]
            return {kind: line.take(until) for kind, line in ready}

    def _tell(self, ready: dict[Kind, dict[int, bool]]) -> None:
        sleepers = None
        try:
            conn = self._connection()
            if told := self._choose(conn, ready):
                sleepers = tasks.notify(conn, told)
        except (PgfleetError, psycopg.Error) as error:
            if ready:
                self._log.warning("notification.dropped", tasks=sum(map(len, ready.values())), error=str(error))
            if self._conn is not None:
                self._conn.close()
        with self._wake:
            for kind, taken in ready.items():
                line = self._line(kind)
                line.sleepers = line.sleepers if sleepers is None else sleepers
                if len(taken) < MOST_ASKED or sleepers is not None:
                    line.pause(PAUSE)

    def _choose(self, conn: db.Connection, ready: dict[Kind, dict[int, bool]]) -> list[int]:
        # Where no crowd sleeps, to ask first whether it needs to be told would cost more than it saves.
        with self._wake:
            asked = {kind: taken for kind, taken in ready.items() if self._line(kind).sleepers > CROWD}
        told = [id for kind, taken in ready.items() if kind not in asked for id in taken]
        if asked:
            ids = list(chain.from_iterable(asked.values()))
            answer = tasks.unclaimed(conn, ids)
            if answer is None:
                return told + ids
            unclaimed = set(answer)
            with self._wake:
                for kind, taken in asked.items():
                    told += self._line(kind).choose(taken, [id for id in taken if id in unclaimed], last=self._stopping)
        return told

    def _connection(self) -> db.Connection:
        if self._conn is None or self._conn.closed:
            # A crash of Postgres may lose this commit, which holds nothing: there is no flush to wait for.
            patience = self._settings.answer_timeout
            self._conn = db.connect(self._settings, "pgfleet api notifier", patience=patience, synchronous_commit="off")
        return self._conn
