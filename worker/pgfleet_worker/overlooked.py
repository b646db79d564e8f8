"""Looks from the queue's front beside the work: what do the lanes pass over?

Such a look walks the entries of all that was claimed since the last VACUUM. Made as a claim it holds up every other: at 42,000
tasks/s it took 20 to 40 ms in the first minute and 260 ms before autovacuum came, and so long did one task in a hundred wait.
A worker to which it is dear looks over a connection of its own, and claims by their ids what it finds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import psycopg

from pgfleet import db, log, sql
from pgfleet.errors import DatabaseAway
from pgfleet.settings import Settings
from pgfleet_worker.part import Part

#: Ids of each type that one look brings, at most.
MOST = 500


@dataclass
class Found:
    """A look: the watermarks that it knew; when it began, on the monotonic clock; what it found, in the order to claim it;
    where that was not all, the id behind which the first of each lane comes; how many seconds it took, None where it failed."""

    lanes: dict[tuple[str, int], int]
    began: float = field(default_factory=time.monotonic)
    ids: list[int] = field(default_factory=list)
    behind: dict[tuple[str, int], int] = field(default_factory=dict)
    seconds: float | None = None
    over: bool = False

    @property
    def all(self) -> bool:
        """Is that all there was to find?"""
        return self.seconds is not None and len(self.ids) < MOST


class Overlooked:
    """One look at a time. The loop's thread calls it; ``ring()`` is called from another when a look is over."""

    def __init__(self, settings: Settings, types: Sequence[str], ring: Callable[[], None]) -> None:
        self._settings = settings
        self._types = list(types)
        self._ring = ring
        queries = sql.queries("workers")
        self._query, self._lanes_of = queries["overlooked"], queries["lanes_of"]
        self._look: Found | None = None

    def begin(self, worker: str, lanes: Mapping[tuple[str, int], int]) -> None:
        """Look now, unless a look is under way; ``lanes`` are the watermarks."""
        if self._look is None:
            self._look = Found(dict(lanes))
            Part(target=self._work, name="overlooked", args=(self._look, worker)).start()

    def end(self) -> Found | None:
        """The look that is over, once."""
        look = self._look
        if look is None or not look.over:
            return None
        self._look = None
        return look

    def _work(self, found: Found, worker: str) -> None:
        lanes = found.lanes
        arguments = {
            "worker": worker,
            "types": self._types,
            "quantity": MOST,
            "lane_types": [type for type, _ in lanes],
            "lane_priorities": [priority for _, priority in lanes],
            "lane_after": list(lanes.values()),
        }
        try:
            with db.connect(self._settings, "pgfleet front", engine=True) as conn:
                conn.execute(self._query, {**arguments, "quantity": 0})  # a new session has its plans to make
                began = time.monotonic()
                found.ids = [id for (id,) in conn.execute(self._query, arguments).fetchall()]
                found.seconds = time.monotonic() - began
                if not found.all:
                    rows = conn.execute(self._lanes_of, {"ids": found.ids}).fetchall()
                    found.behind = {(type, priority): first - 1 for type, priority, first in rows}
        except (psycopg.Error, DatabaseAway) as error:
            log.get().warning("look.failed", worker=worker, error=str(error))
        finally:
            found.over = True
            self._ring()
