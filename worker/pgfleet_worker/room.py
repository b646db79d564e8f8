"""How much to claim: what can start soon, and no more.

Capacity counts as used from the claim until Postgres has acknowledged the settle. While a type's tasks are measured to
be short (milliseconds), the worker claims ahead: as many as it settles in :data:`AHEAD` seconds, so that the next batch
is on its way while this one is worked off. Tasks that then can't start, because longer ones hold the slots, go back.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

from pgfleet_worker.aio import BLOCKED, AsyncSlots
from pgfleet_worker.attempt import Pace
from pgfleet_worker.claims import ALL, FOR_THREADS, OTHERS, SHORT_ONES
from pgfleet_worker.outcome import Claimed, Outcome
from pgfleet_worker.slots import ThreadSlots

#: A type is short while its tasks take less than this on average, in seconds.
SHORT = 0.010
#: Below this one thread that works a batch off beats many: the rest only pass the interpreter's lock around.
TINY = 0.0003
#: Seconds of work claimed ahead.
AHEAD = 0.05
#: Or so many times what a claim and a settle take, where that is longer (Postgres is far away, the machine overloaded): less
#: would all be done before more can come, and the pace, and so what is claimed, would stay what they are: 20 a turn.
LAGS = 2
MOST_LAG = 1.0
#: The most tasks claimed ahead, whatever their pace: what a kill leaves to be rescued.
MOST_AHEAD = 4000
#: The most short tasks in one claim. Where the settler has run dry all four batches are free, and claimed at once they are
#: worked off, settled and freed at once, too: in a trace claim and settle took turns from then on (2,000 in 28 ms each, one of
#: the two idle). With claims of a quarter the settler is at work again after the first.
MOST_AT_ONCE = MOST_AHEAD // 4
#: Seconds over which the pace of settling is measured; and until as many are settled as are claimed ahead at most. From ten
#: tasks to the full measure it is a few windows, one after the other: with 4 ms instead of 20 a trace was in full swing after
#: 60 ms, one before after 160.
WINDOW = 0.02
FIRST_WINDOW = 0.004
#: Seconds between looks for longer tasks while short ones come without end.
LONG_PAUSE = 0.02
#: A thread on the same task for longer is no longer counted on to work the queue off.
STUCK = 0.002
#: Tasks that no slot took for this long go back to the fleet; or for as long as claim and settle take, before which no end is
#: known.
HELD_UP = 0.05

# A batch is entered column by column, without a line of Python a task.
_ID, _TYPE, _ENTRY = itemgetter(0), itemgetter(1), itemgetter(4, 1)


@dataclass(frozen=True)
class Ask:
    """One claim to make: up to ``quantity`` tasks, of ``types`` only where given, and what kind of look that is."""

    quantity: int
    types: tuple[str, ...] | None = None
    kind: str = ALL


class Room:
    """Knows what is held and decides what to claim. The loop's thread claims; the settler's acknowledges.

    ``apart`` are rare types, which are never claimed ahead: they must not change how the others are claimed. ``on_loop`` are
    those with ``async def`` handlers: of these none are claimed while one of them blocks the event loop.
    ``held`` is the worker's own record of its claims, {id: (attempt, type)}: what the table says beyond it is a claim whose
    answer was lost (see ``release_unheld``).
    """

    def __init__(
        self,
        slots: int,
        paces: Mapping[str, Pace],
        abandoned: Collection[object] = (),
        apart: Collection[str] = (),
        on_loop: Collection[str] = (),
    ) -> None:
        self._slots = slots
        self._apart = apart
        self._on_loop = on_loop
        self._for_threads = tuple(type for type in paces if type not in on_loop)
        self._abandoned = abandoned  # each holds a slot for as long as its thread goes on
        self._concurrency = slots
        self._paces = paces
        self.held: dict[int, tuple[int, str]] = {}
        # Both threads enter and strike out; between a look and its consequence the other must not come.
        self._entering = threading.Lock()
        self._claimed = dict.fromkeys(paces, 0)  # by type; written by the loop's thread only
        self._settled = dict.fromkeys(paces, 0)  # by type; written by the settler's thread only
        self._acknowledged = 0
        self._seen = 0
        self._least = 1
        self._left = 0
        self._more = False
        self._rate = 0.0
        self._window = (time.monotonic(), 0)
        self._moved = (0.0, 0)
        self._no_ahead_until = 0.0
        self._no_ahead_on_loop_until = 0.0
        self._patience = 0.0  # seconds that what was queued for the loop had when it went back last
        self._long_due = 0.0
        self._short: list[str] = []
        self._ahead = 0
        self._lag = 0.0
        self._late = False  # is the event loop?
        self._blocked = 0.0  # or even blocked: for so many seconds
        #: Was the event loop blocked until the last measure?
        self.reopened = False

    def take(self, claimed: list[Claimed], *, more: bool) -> list[Claimed]:
        """Enter what was claimed; answers what is new. ``more``: there may be others ready.

        After a crash of Postgres that lost a claim, the same attempt may be claimed again while it still runs: it is left
        to that run. Another attempt is work of its own, even if an older one still runs here.
        """
        held, counts = self.held, self._claimed
        new = claimed
        with self._entering:
            if not held.keys().isdisjoint(map(_ID, claimed)):
                new = [task for task in claimed if held.get(task.id, (None,))[0] != task.attempt]
                for task in new:
                    before = held.get(task.id)
                    if before is not None:
                        counts[before[1]] -= 1
            held.update(zip(map(_ID, new), map(_ENTRY, new), strict=True))
        for type, number in Counter(map(_TYPE, new)).items():
            counts[type] += number
        self._left -= len(claimed)
        self._more = more and bool(claimed)
        return new

    def acknowledge(self, outcomes: Iterable[Outcome]) -> None:
        """These are settled, says the settler: their room is free."""
        held, counts = self.held, self._settled
        number = 0
        with self._entering:
            for outcome in outcomes:
                entry = held.get(outcome[0])
                if entry is not None and entry[0] == outcome[1]:
                    del held[outcome[0]]
                    counts[entry[1]] += 1
                    number += 1
        self._acknowledged += number

    def drop(self, tasks: Iterable[Claimed]) -> None:
        """These are not ours to settle any more, says the loop."""
        with self._entering:
            for task in tasks:
                entry = self.held.get(task.id)
                if entry is not None and entry[0] == task.attempt:
                    del self.held[task.id]
                    self._claimed[task.type] -= 1

    def forget(self) -> None:
        """Nothing that was held is ours any more: the lease is lost."""
        with self._entering:
            for _, type in self.held.values():
                self._claimed[type] -= 1
            self.held.clear()

    def measure(self, threads: ThreadSlots, coroutines: AsyncSlots, lag: float = 0.0) -> int:
        """Look at the slots; answers how many tasks of any type could be taken now. ``lag``: seconds that a claim and a settle
        take together."""
        self._seen = self._acknowledged
        self._lag = min(MOST_LAG, LAGS * lag)
        self._concurrency = self._slots - len(self._abandoned)
        now = time.monotonic()
        self._measure_rate(now)
        was_blocked = self.types is not None
        self._late, self._blocked = coroutines.unanswered >= BLOCKED, coroutines.blocked_for()
        self.reopened = was_blocked and self.types is None
        self._short = [type for type in self._open if self._may_be_ahead(type, now)]
        self._ahead = 0
        if self._short and now >= self._no_ahead_until:
            stuck = self._stuck(threads, coroutines, now)
            if stuck < self._slots:  # what longer tasks hold is no room for short ones
                least = max(1, self._concurrency - stuck)
                self._ahead = min(MOST_AHEAD, max(least, round(self._rate * max(AHEAD, self._lag))))
        # Ahead, whole batches: a round trip for one slot costs more than it brings.
        self._least = max(1, self._ahead // 4)
        self._left = self._concurrency + self._ahead - self._count()
        return self._left

    @property
    def served(self) -> Collection[str]:
        """All types."""
        return self._paces.keys()

    @property
    def types(self) -> tuple[str, ...] | None:
        """The only types to claim now; None for all."""
        return self._for_threads if self._blocked >= BLOCKED else None

    @property
    def _open(self) -> Collection[str]:
        return self._paces if self.types is None else self.types

    def _may_be_ahead(self, type: str, now: float) -> bool:
        mean = self._paces[type].mean
        if mean is None or mean >= SHORT or type in self._apart:
            return False
        return type not in self._on_loop or not (self._late or now < self._no_ahead_on_loop_until)

    def asks(self, *, thorough: bool, all_types: bool = False) -> Iterator[Ask]:
        """What to claim now, in this order; ``thorough`` leaves nothing out that there is room for, ``all_types`` no type.

        Nothing ahead: what fits, of all types. Else the short types ahead of their turn, in whole batches, and beside them
        the others, each for a slot it can have: a backlog of short tasks must not keep them out.
        """
        if not self._ahead:
            if self._left > 0:
                yield Ask(self._left, self.types, ALL if self.types is None else FOR_THREADS)
            return
        others = tuple(type for type in self._open if type not in self._short)
        if all(type in self._apart for type in others):
            if self._left >= (1 if thorough else self._least):
                yield Ask(self._portion, self.types, ALL if self.types is None else FOR_THREADS)
            return
        for_others = self._concurrency - self._count(others)
        now = time.monotonic()
        if for_others > 0 and (thorough or all_types or now >= self._long_due):
            self._long_due = now + LONG_PAUSE
            yield Ask(for_others, others, OTHERS)
        if self._left >= (1 if thorough else self._least):
            yield Ask(self._portion, tuple(self._short), SHORT_ONES)

    @property
    def _portion(self) -> int:
        """Of the room that is left, what one claim of short tasks may ask for."""
        return min(self._left, max(self._concurrency, MOST_AT_ONCE))

    def _count(self, types: Iterable[str] | None = None) -> int:
        if types is None:
            return len(self.held)
        return sum(self._claimed[type] - self._settled[type] for type in types)

    @property
    def longest(self) -> float:
        """Seconds that tasks of the longest type held take on average; infinite where one is not known yet."""
        held = [type for type, number in self._claimed.items() if number > self._settled[type]]
        means = [self._paces[type].mean for type in held]
        return max((float("inf") if mean is None else mean for mean in means), default=0.0)

    @property
    def found_all(self) -> bool:
        """Did the last claim find fewer than it asked for?"""
        return not self._more

    @property
    def settled(self) -> int:
        """How many were ever settled."""
        return self._acknowledged

    @property
    def is_full(self) -> bool:
        """Was there too little room to claim at the last measure?"""
        return self._left < self._least

    @property
    def changed(self) -> bool:
        """Has anything been settled since the last measure?"""
        return self._acknowledged != self._seen

    @property
    def has_more(self) -> bool:
        """Is it worth looking again at once: may there be more, and is there room?"""
        return self._more and self._left >= self._least

    def threads_for(self, tasks: Sequence[Claimed]) -> int:
        """How many threads to wake for ``tasks``."""
        tiny = 0
        for type, number in Counter(map(_TYPE, tasks)).items():
            mean = self._paces[type].mean
            if mean is not None and mean < TINY:
                tiny += number
        return len(tasks) - tiny + (tiny > 0)

    def threads_lacking(self, threads: ThreadSlots) -> int:
        """How many more threads the queue needs: those stuck on one task don't work it off."""
        now = time.monotonic()
        began = list(threads.busy.values())
        stuck = sum(1 for since in began if now - since > STUCK)
        return 2 * stuck + 1 - len(began) if threads.queued else 0

    def take_back(self, threads: ThreadSlots, coroutines: AsyncSlots) -> list[Claimed]:
        """What is queued and no slot has taken for a while. Then stop claiming ahead, too."""
        now = time.monotonic()
        if self._is_held_up(threads, coroutines, now):
            self._no_ahead_until = now + 1.0
            return threads.take_back() + coroutines.take_back()
        patience = max(HELD_UP, self._lag)
        # Where blocks come one after the other, it would go to and fro with each.
        if now < self._no_ahead_on_loop_until:
            patience = max(patience, 2 * self._patience)
        if coroutines.queued and self._blocked >= patience:
            self._patience, self._no_ahead_on_loop_until = patience, now + 1.0
            return coroutines.take_back()
        return []

    def _is_held_up(self, threads: ThreadSlots, coroutines: AsyncSlots, now: float) -> bool:
        if self._stuck(threads, coroutines, now) < self._slots or self._moved[1] != self._acknowledged:
            self._moved = (now, self._acknowledged)
            return False
        return now - self._moved[0] >= max(HELD_UP, self._lag)

    def _stuck(self, threads: ThreadSlots, coroutines: AsyncSlots, now: float) -> int:
        held = sum(1 for since in list(threads.busy.values()) if now - since > SHORT)
        return max(held, sum(1 for since in list(coroutines.busy.values()) if now - since > 2 * SHORT))

    def _measure_rate(self, now: float) -> None:
        since, acknowledged = self._window
        if now - since >= (WINDOW if self._acknowledged > MOST_AHEAD else FIRST_WINDOW):
            rate = (self._acknowledged - acknowledged) / (now - since)
            self._rate = rate if rate > self._rate else self._rate + (rate - self._rate) * 0.2
            self._window = (now, self._acknowledged)
