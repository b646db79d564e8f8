"""Schedulers of a test's own, and a function that they run for as long as the test wants."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pgfleet.settings import Settings
from pgfleet_worker.scheduler import Scheduler


@contextmanager
def schedulers(settings: Settings) -> Iterator[Callable[..., Scheduler]]:
    """Makes schedulers; they are stopped at the end.

    Their grace is for the gates: a stop that waits for one must outlast whatever the machine does meanwhile.
    """
    made: list[Scheduler] = []

    def make(**options: Any) -> Scheduler:
        made.append(Scheduler(settings=dataclasses.replace(settings, grace=60.0), **options))
        return made[-1]

    yield make
    for scheduler in made:
        scheduler.stop()


class Gate:
    """A function that ends when it is let."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self._places = threading.Semaphore(0)
        self.most = self._inside = 0
        self._lock = threading.Lock()

    def __call__(self) -> str:
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)
        self.entered.release()
        assert self._places.acquire(timeout=60)
        with self._lock:
            self._inside -= 1
        return "through"

    def open(self, places: int = 1000) -> None:
        """Let so many through."""
        self._places.release(places)
