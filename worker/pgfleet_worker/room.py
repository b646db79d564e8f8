"""How much to claim: what can start soon, and no more.

Capacity counts as used from the claim until Postgres has acknowledged the settle. While a type's tasks are measured to
be short (milliseconds), the worker claims ahead: as many as it settles in :data:`AHEAD` seconds, so that the next batch
is on its way while this one is worked off. Tasks that then can't start, because longer ones hold the slots, go back.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pgfleet_worker.aio import AsyncSlots
from pgfleet_worker.attempt import Pace
from pgfleet_worker.outcome import Claimed
from pgfleet_worker.slots import ThreadSlots

#: A type is short while its tasks take less than this on average, in seconds.
SHORT = 0.010
#: Below this one thread that works a batch off beats many: the rest only pass the interpreter's lock around.
TINY = 0.0003
#: Seconds of work claimed ahead.
AHEAD = 0.05
#: The most tasks claimed ahead, whatever their pace: what a kill leaves to be rescued.
MOST_AHEAD = 4000
#: A thread on the same task for longer is no longer counted on to work the queue off.
STUCK = 0.002
#: Tasks that no slot took for this long go back to the fleet.
HELD_UP = 0.05


@dataclass(frozen=True)
class Measure:
    """Room for ``any`` type's tasks, for ``short`` ones (of ``short_types``), and the least worth a round trip."""

    any: int
    short: int
    short_types: Sequence[str]
    least: int


class Room:
    """Counts what is held and decides what to claim. The loop claims; the settler's thread gives back."""

    def __init__(self, concurrency: int, paces: Mapping[str, Pace]) -> None:
        self._concurrency = concurrency
        self._paces = paces
        self._claimed = 0  # written by the loop's thread only
        self._loop_gave_back = 0
        self._settled = 0  # written by the settler's thread only
        self._seen = 0
        self._wanted = 0
        self._least = 1
        self._more = False
        self._rate = 0.0
        self._window = (time.monotonic(), 0)
        self._moved = (0.0, 0)
        self._no_ahead_until = 0.0

    @property
    def held(self) -> int:
        """Tasks claimed and not yet settled."""
        return self._claimed - self._settled - self._loop_gave_back

    def took(self, count: int, *, more: bool) -> None:
        """``count`` more were claimed; ``more``: there may be others ready."""
        self._claimed += count
        self._wanted -= count
        self._more = more and count > 0

    def gave_back(self, count: int) -> None:
        """``count`` were settled (the settler says)."""
        self._settled += count

    def dropped(self, count: int) -> None:
        """``count`` are not ours to settle (the loop says)."""
        self._loop_gave_back += count

    def measure(self, threads: ThreadSlots, coroutines: AsyncSlots) -> Measure:
        """How much to claim now."""
        self._seen = self._settled
        now = time.monotonic()
        self._measure_rate(now)
        short = [t for t, pace in self._paces.items() if pace.mean is not None and pace.mean < SHORT]
        ahead = 0
        if short and now >= self._no_ahead_until and self._stuck(threads, coroutines, now) < self._concurrency:
            ahead = min(MOST_AHEAD, max(self._concurrency, round(self._rate * AHEAD)))
        held = self.held
        all_short = len(short) == len(self._paces)
        any_room = self._concurrency + (ahead if all_short else 0) - held
        short_room = self._concurrency + ahead - held
        # While claiming ahead, whole batches: a round trip for one freed slot costs more than it fetches.
        least = max(1, ahead // 4)
        self._wanted, self._least = max(any_room, short_room if short else 0), least
        return Measure(max(0, any_room), max(0, short_room), short, least)

    @property
    def is_full(self) -> bool:
        """Was there too little room to claim at the last measure?"""
        return self._wanted < self._least

    @property
    def changed(self) -> bool:
        """Has anything been settled since the last measure?"""
        return self._settled != self._seen

    @property
    def has_more(self) -> bool:
        """Is it worth looking again at once: may there be more, and is there room?"""
        return self._more and self._wanted >= self._least

    def threads_for(self, tasks: Sequence[Claimed]) -> int:
        """How many threads to wake for ``tasks``."""
        tiny = 0
        for task in tasks:
            mean = self._paces[task.type].mean
            tiny += mean is not None and mean < TINY
        return len(tasks) - tiny + (tiny > 0)

    def threads_lacking(self, threads: ThreadSlots) -> int:
        """How many more threads the queue needs: those stuck on one task don't work it off."""
        now = time.monotonic()
        began = list(threads.busy.values())
        stuck = sum(1 for since in began if now - since > STUCK)
        return 2 * stuck + 1 - len(began) if threads.queued else 0

    def held_up(self, threads: ThreadSlots, coroutines: AsyncSlots) -> bool:
        """Are tasks queued that no slot has taken for a while? Then stop claiming ahead, too."""
        now = time.monotonic()
        if self._stuck(threads, coroutines, now) < self._concurrency or self._moved[1] != self._settled:
            self._moved = (now, self._settled)
            return False
        if now - self._moved[0] < HELD_UP:
            return False
        self._no_ahead_until = now + 1.0
        return True

    def _stuck(self, threads: ThreadSlots, coroutines: AsyncSlots, now: float) -> int:
        held = sum(1 for since in list(threads.busy.values()) if now - since > SHORT)
        return max(held, sum(1 for since in list(coroutines.busy.values()) if now - since > 2 * SHORT))

    def _measure_rate(self, now: float) -> None:
        since, settled = self._window
        if now - since >= 0.02:
            rate = (self._settled - settled) / (now - since)
            self._rate = rate if rate > self._rate else self._rate + (rate - self._rate) * 0.2
            self._window = (now, self._settled)
