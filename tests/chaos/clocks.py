"""The load that starts by itself: a schedule of every sort, who emits events, and who stops all firing now and then."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

import psycopg

from pgfleet import schedules
from pgfleet.schedules import CatchUp, Overlap, Schedule, Trigger
from tests.chaos.work import Client, Ledger

EVENT = "soak.happened"
#: The second of the minute at which a cron expression is due, as the account reads it.
CRON, CRON_SECONDS = "2,3,30-40/5 * * * * *", {2, 3, 30, 35, 40}
#: More than any outage or stop holds, so that what catches up all catches up all.
LIMIT = 10_000
#: Parts of the soak's length after which the one-time schedules are due; two of them at the same moment.
ONCE = (0.1, 0.25, 0.4, 0.4, 0.55, 0.7, 0.85, 0.97)


@dataclass(frozen=True)
class Clock:
    """A schedule of the soak; ``first`` is its first due time, None where that is not known beforehand."""

    schedule: Schedule
    first: datetime | None = None

    @property
    def name(self) -> str:
        return self.schedule.name

    @property
    def trigger(self) -> Trigger:
        return self.schedule.triggers[0]

    @property
    def all_of_them(self) -> bool:
        """Does each due time make its run, whatever happens?"""
        return self.schedule.overlap == "allow" and self.schedule.catch_up == "all"

    @property
    def regular(self) -> bool:
        """Are its due times known whatever its runs do?"""
        return self.trigger.cron is not None or (self.trigger.every is not None and not self.trigger.fixed_delay)

    def series(self, until: datetime) -> Iterator[datetime]:
        """Its due times before ``until``, by arithmetic of the soak's own."""
        assert self.first is not None
        if self.trigger.every is not None:
            for n in itertools.count():
                if (due := self.first + n * self.trigger.every) >= until:
                    return
                yield due
        due = self.first.replace(microsecond=0)
        while (due := due + timedelta(seconds=1)) < until:
            if due.second in CRON_SECONDS:
                yield due


def clocks(now: datetime, seconds: float) -> list[Clock]:
    """Those of a soak that begins ``now`` and takes so long. ``now`` is when they are put, on the database's clock."""
    found = [
        _every(now, "half-second", 0.5, "soak_noop", overlap="allow", catch_up="all"),
        _every(now, "two-seconds", 2, "soak_nap", overlap="allow", catch_up="all", seconds=0.1),
        _every(now, "broken", 3, "soak_doomed", overlap="allow", catch_up="all", at_once=True),
        _every(now, "everywhere", 10, "soak_nap", overlap="allow", catch_up="all", all_nodes=True, seconds=0.05),
        _every(now, "one-by-one", 0.7, "soak_nap", overlap="skip", catch_up="all", seconds=0.2),
        _every(now, "queue", 1, "soak_nap", overlap="queue", catch_up="once", seconds=0.9),
        _every(now, "skip", 0.9, "soak_nap_async", overlap="skip", catch_up="once", seconds=0.6),
        _every(now, "rest", 1.5, "soak_nap", overlap="skip", catch_up="once", fixed_delay=True, seconds=0.3),
        Clock(_schedule("cron", "soak_noop", Trigger.crontab(CRON), overlap="allow", catch_up="all"), now),
        Clock(_schedule("event", "soak_event", Trigger.on(EVENT))),
    ]
    for n, part in enumerate(ONCE):
        at = now + timedelta(seconds=part * seconds)
        found.append(Clock(_schedule(f"once-{n}", "soak_nap", Trigger.once(at=at), seconds=0.2), at))
    return found


def _every(now: datetime, name: str, every: float, type: str, *, fixed_delay: bool = False, **more: Any) -> Clock:
    first = now + timedelta(seconds=1)
    trigger = Trigger.interval(timedelta(seconds=every), fixed_delay=fixed_delay, first=first)
    return Clock(_schedule(name, type, trigger, **more), first)


def _schedule(
    name: str, type: str, trigger: Trigger, *,
    overlap: Overlap = "skip", catch_up: CatchUp = "once", all_nodes: bool = False, **data: Any,
) -> Schedule:  # fmt: skip
    return Schedule(
        name, type, (trigger,), {"key": f"schedule {name}", **data}, overlap=overlap, catch_up=catch_up,
        catch_up_limit=LIMIT, all_nodes=all_nodes, time_zone="Europe/Stockholm",
    )  # fmt: skip


def put(conn: psycopg.Connection[Any], seconds: float, ledger: Ledger) -> list[Clock]:
    """Put them all, in one transaction whose time is what the account counts from."""
    with conn.transaction():
        row = conn.execute("select now()").fetchone()
        assert row is not None
        wanted = clocks(row[0], seconds)
        schedules.put_all(conn, [clock.schedule for clock in wanted])
    ledger.kinds["schedule broken"] = "doomed"
    return wanted


@dataclass
class Events:
    """What the emitters know: by the serial in its payload, what became of each event."""

    serials: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    #: Unknown: the answer to the commit was lost.
    fates: dict[int, Literal["committed", "rolled back", "unknown"]] = field(default_factory=dict)


class Emitter(Client):
    """Emits events, one or several in a transaction, which may be rolled back; writes down what became of each."""

    def __init__(self, name: str, url: str, seed: str, events: Events) -> None:
        super().__init__(name, url, seed)
        self._events = events

    def work(self, conn: psycopg.Connection[Any]) -> None:
        while not self.ending.wait(self.random.uniform(0.1, 1.0)):
            serials = [next(self._events.serials) for _ in range(self.random.choice([1, 1, 2, 3]))]
            roll_back = self.random.random() < 0.3
            self._events.fates.update(dict.fromkeys(serials, "rolled back" if roll_back else "unknown"))
            with conn.transaction(force_rollback=roll_back):
                for serial in serials:
                    schedules.emit(conn, EVENT, {"serial": serial})
                    self.ending.wait(self.random.choice([0, 0, 0.05]))
            if not roll_back:
                self._events.fates.update(dict.fromkeys(serials, "committed"))


class Stopper(Client):
    """Stops all firing now and then, for a while, and looks whether something is fired meanwhile."""

    def __init__(
        self, url: str, seed: str, every: tuple[float, float] = (3, 12), length: tuple[float, float] = (0.5, 5)
    ) -> None:
        super().__init__("stopper", url, seed)
        self._every, self._length = every, length
        self._stopping = 0.0
        #: What had been fired when it was known that firing is stopped.
        self.seen: set[int] | None = None
        #: (from, until) on the wall clock: when firing was, or may have been, stopped.
        self.stops: list[tuple[float, float]] = []
        #: Seconds until a stop was answered: it waits for whoever is firing.
        self.answered: list[float] = []
        self.watched = 0
        self.breaches: list[str] = []

    def work(self, conn: psycopg.Connection[Any]) -> None:
        while True:
            self.resume(conn)
            if self.ending.wait(self.random.uniform(*self._every)):
                return
            self._stopping = time.time()
            schedules.stop(conn)
            self.answered.append(time.time() - self._stopping)
            self.seen = fired(conn)
            self.ending.wait(self.random.uniform(*self._length))

    def resume(self, conn: psycopg.Connection[Any]) -> None:
        """Start it, also where a connection was lost before we could; look first, where we know since when it is stopped."""
        if self.seen is not None and schedules.is_stopped(conn):
            self.watched += 1
            self.breaches += [f"task {id} was fired while all firing was stopped" for id in fired(conn) - self.seen]
        self.seen = None
        schedules.start(conn)
        if self._stopping:
            self.stops.append((self._stopping, time.time()))
            self._stopping = 0.0


def fired(conn: psycopg.Connection[Any]) -> set[int]:
    """The runs that a clock has made."""
    return {row[0] for row in conn.execute("select id from tasks where schedule is not null and due_at is not null")}
