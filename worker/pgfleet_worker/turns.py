"""Taking turns: when hundreds of idle workers hear of one task, a few go for it at once and the others look later.

Every listener hears every notification, and each that looks costs Postgres and the server a fraction of a millisecond:
200 of them at once make a task that takes one millisecond cost fifty. So each worker has a place in the crowd (its
heartbeat brings it) and ids are spread over the places: the first :data:`FIRST` go at once, the next :data:`SECOND`
look after :data:`SOON`, in case these were busy or have died, the rest after :data:`LATER`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

FIRST = 3
SECOND = 4
SOON = 0.04
LATER = 0.5
#: Ids kept for a later look; with more than these waiting, the look at each poll finds the rest.
MOST = 1000


class Turns:
    """One worker's turns. ``concurrency``: how many tasks one of the crowd can take, so how many must go at once."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._later: list[int] = []
        #: When, on the monotonic clock, this worker should look at what it left to others.
        self.due = float("inf")

    def take(self, heard: Sequence[int], place: int, alive: int) -> list[int]:
        """Of the ids just ``heard``, those to go for now, with what was left to others and is due."""
        now = time.monotonic()
        mine: list[int] = []
        if heard:
            # One decision for the whole burst, so that a few workers take it and not each of them a part.
            rank = (place - heard[0]) % max(alive, 1)
            first = FIRST + len(heard) // self._concurrency
            if rank < first:
                mine += heard
            else:
                self._later = (self._later + list(heard))[-MOST:]
                self.due = min(self.due, now + (SOON if rank < first + SECOND else LATER))
        if now >= self.due:
            mine += self._later
            self._later = []
            self.due = float("inf")
        return mine
