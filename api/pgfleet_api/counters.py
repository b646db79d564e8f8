"""Counts of the requests served, for ``/metrics``."""

from __future__ import annotations

import threading
from collections import Counter

#: (method, route, status); the route is the rule ("/v1/tasks/<id>"), so that ids don't become labels.
Key = tuple[str, str, int]


class Counters:
    """Requests and the seconds spent on them, by method, route and status. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[Key] = Counter()
        self._seconds: Counter[Key] = Counter()

    def count(self, key: Key, seconds: float) -> None:
        """Count one request that took ``seconds``."""
        with self._lock:
            self._requests[key] += 1
            self._seconds[key] += seconds  # type: ignore[assignment] # a Counter adds floats as well

    def read(self) -> list[tuple[Key, int, float]]:
        """(key, requests, seconds in all), sorted."""
        with self._lock:
            return [(key, count, float(self._seconds[key])) for key, count in sorted(self._requests.items())]
