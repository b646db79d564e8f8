"""Deadlines of running tasks: one thread and one heap for all of them, started with the first."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pgfleet_worker.part import Part

if TYPE_CHECKING:
    from pgfleet_worker.task import Task

#: A heap shorter than this is never cleared of tasks that have ended.
SMALL = 64


class Watch:
    """Calls back when a task is still there at its time; a task without a deadline costs nothing here.

    ``is_running(task)`` says whether the task's attempt still runs: where it doesn't, its deadline is dropped unheard.
    """

    def __init__(self, is_running: Callable[[Task], bool]) -> None:
        self._is_running = is_running
        self._heap: list[tuple[float, int, Task, Callable[[Task], None]]] = []
        self._number = itertools.count()  # so that tasks are never compared
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._most = SMALL

    def at(self, when: float, task: Task, act: Callable[[Task], None]) -> None:
        """Call ``act(task)`` at ``when`` (of ``time.monotonic``), in the watch's thread, if it still runs then."""
        with self._changed:
            if len(self._heap) >= self._most:
                self._clear()
            heapq.heappush(self._heap, (when, next(self._number), task, act))
            if self._thread is None:
                self._thread = Part(target=self._work, name="watch")
                self._thread.start()
            elif self._heap[0][2] is task:
                self._changed.notify()

    def _clear(self) -> None:
        """Most tasks end long before their time: without this the heap would hold an hour's worth of them."""
        self._heap = [entry for entry in self._heap if self._is_running(entry[2])]
        heapq.heapify(self._heap)
        self._most = max(SMALL, 2 * len(self._heap))

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._heap or self._heap[0][0] > time.monotonic():
                    self._changed.wait(self._heap[0][0] - time.monotonic() if self._heap else None)
                _, _, task, act = heapq.heappop(self._heap)
            if self._is_running(task):
                act(task)
