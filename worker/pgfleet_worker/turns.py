"""Taking turns: when hundreds of idle workers hear of one task, a few go for it at once and the others look later, or not.

Every listener hears every notification, and each that looks costs Postgres and the server some milliseconds, cold as it is:
200 of them at once make a task that takes one millisecond cost a second. So each worker has a place in the crowd (its
heartbeat brings it) and ids are spread over the places: the first :data:`FIRST` go at once, the next :data:`SECOND`
look after :data:`SOON`, in case these were busy or have died, and :data:`THIRD` after :data:`LATER`, or where that was in vain
again and again after twice as long each time. The rest leave it to the polls, of which a crowd that sleeps makes several a
second; where few of it sleep, or a bulk of ids comes at once, all look. The workers of one node take turns for what names it.

Two of the crowd lead it: they go for all that they hear of, and look for what nobody is told of (:mod:`pgfleet.crowd`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from pgfleet.crowd import CROWD

FIRST = 3
SECOND = 4
THIRD = 16
SOON = 0.04
LATER = 0.5
MOST_LATER = 4.0
LEADERS = 2
#: For so many ids, two to the power of it, the same ones lead.
REIGN = 16
#: Ids heard at once that want all: a bulk tells of so many, however large it is.
BULK = 64
#: Ids kept for a later look; with more than these waiting, the look at each poll finds the rest.
MOST = 1000


class Standing(NamedTuple):
    """A worker's, in its crowd: its ``place`` among the live ones that serve the same types, from 0, and how many they are;
    how many of the whole fleet sleep; and the first two among those of its node."""

    place: int = 0
    alive: int = 1
    sleepers: int = 0
    place_on_node: int = 0
    alive_on_node: int = 1


class Turns:
    """One worker's turns. ``concurrency``: how many tasks one of the crowd can take, so how many must go at once."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._later: list[int] = []
        self._patience = LATER
        self._heard = 0.0
        #: When, on the monotonic clock, this worker should look at what it left to others.
        self.due = float("inf")
        #: Does this worker look for what the crowd is not told of?
        self.leads = False
        #: When, on the monotonic clock, it last went for what it heard.
        self.called = 0.0
        #: How many are in the crowd, and how many of the fleet sleep.
        self.alive, self.sleepers = 1, 0

    def take(self, heard: Sequence[int], standing: Standing, own: Sequence[int] = ()) -> list[int]:
        """Which ids to claim now: of those just ``heard``, of this node's ``own``, of those left to others long enough ago."""
        now = time.monotonic()
        mine: list[int] = []
        self.alive, self.sleepers = max(standing.alive, 1), standing.sleepers
        if heard or own:
            if now - self._heard > MOST_LATER:
                self._patience = LATER
            self._heard = now
        wait = self._patience if self.sleepers > CROWD else LATER
        if heard:
            # One decision for the whole burst, so that a few workers take it and not each of them a part.
            rank = (standing.place - heard[0]) % self.alive
            first = FIRST + len(heard) // self._concurrency
            self.leads = self.sleepers > CROWD and (standing.place - (heard[0] >> REIGN)) % self.alive < LEADERS
            if rank < first or self.leads:
                mine += heard
                self.called = now
            elif rank < first + SECOND:
                self._leave(heard, now + SOON)
            elif rank < first + SECOND + THIRD or len(heard) >= BULK or self.sleepers <= CROWD:
                self._leave(heard, now + wait)
        if own:
            rank = (standing.place_on_node - own[0]) % max(standing.alive_on_node, 1)
            if rank < FIRST:
                mine += own
            else:
                self._leave(own, now + (SOON if rank < FIRST + SECOND else wait))
        if now >= self.due:
            mine += self._later
            self._later = []
            self.due = float("inf")
            self._patience = min(2 * self._patience, MOST_LATER)
        return mine

    def _leave(self, heard: Sequence[int], until: float) -> None:
        self._later = (self._later + list(heard))[-MOST:]
        self.due = min(self.due, until)

    @property
    def follows(self) -> bool:
        """Is this one of a crowd that others lead?"""
        return self.alive > CROWD and not self.leads

    def claimed(self) -> None:
        """There was something for this worker."""
        self._patience = LATER
