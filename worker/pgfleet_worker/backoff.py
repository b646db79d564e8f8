"""How long to wait for a Postgres that is away."""

from __future__ import annotations

import random


class Backoff:
    """Pauses that double from ``first`` to ``most`` seconds, each spread by half so that a fleet does not return as one."""

    def __init__(self, first: float = 0.05, most: float = 5.0) -> None:
        self._first = first
        self._most = most
        self._pause = first

    def next(self) -> float:
        """The next pause, in seconds."""
        pause, self._pause = self._pause, min(self._pause * 2, self._most)
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing

    def reset(self) -> None:
        """Begin anew: it answered."""
        self._pause = self._first
