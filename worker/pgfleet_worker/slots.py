"""The slots that run plain handlers: threads, started when first needed, parked while idle."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from pgfleet_worker.outcome import Claimed
from pgfleet_worker.part import Part


class ThreadSlots:
    """Up to ``size`` threads that take claimed tasks from one local queue and run them.

    How many threads are woken for a batch is the caller's choice: for tasks of microseconds one thread that works the
    batch off is fastest (a hundred only pass the interpreter's lock around); for longer ones each task wants its own.
    """

    def __init__(self, size: int, run: Callable[[Claimed], None]) -> None:
        self.size = size
        self._run = run
        self._queue: deque[Claimed] = deque()
        self._parked: list[threading.Lock] = []
        self._threads: list[threading.Thread] = []
        self._closed = False
        #: When each busy thread began its task, by thread number; for telling whether the slots are held.
        self.busy: dict[int, float] = {}

    def offer(self, tasks: Iterable[Claimed], wake: int) -> None:
        """Queue ``tasks`` and wake up to ``wake`` idle threads."""
        self._queue.extend(tasks)
        self.wake(wake)

    def wake(self, count: int) -> None:
        """Set up to ``count`` more threads to work, as far as there are any."""
        for _ in range(count):
            try:
                parked = self._parked.pop()
            except IndexError:
                if len(self._threads) >= self.size:
                    return
                self._start()
            else:
                parked.release()

    def stir(self) -> None:
        """Wake an idle thread for nothing: a task is about to come, and a processor that has just run starts it sooner."""
        try:
            parked = self._parked.pop()
        except IndexError:
            return
        parked.release()

    @property
    def queued(self) -> int:
        """Tasks that no thread has taken yet."""
        return len(self._queue)

    def take_back(self) -> list[Claimed]:
        """Empty the queue: the tasks that no thread has taken."""
        back = []
        while True:
            try:
                back.append(self._queue.popleft())
            except IndexError:
                return back

    def close(self) -> None:
        """Let the threads end once they are idle; the queue should be empty."""
        self._closed = True
        self.wake(len(self._threads))

    def _start(self) -> None:
        number = len(self._threads)
        thread = Part(target=self._work, args=(number,), name=f"slot-{number}")
        self._threads.append(thread)
        thread.start()

    def _work(self, number: int) -> None:
        queue, run, busy, parked, now = self._queue, self._run, self.busy, self._parked, time.monotonic
        park = threading.Lock()
        park.acquire()
        while True:
            try:
                task = queue.popleft()
            except IndexError:
                busy.pop(number, None)
                parked.append(park)
                # Somebody may have queued between our look and our parking, and found nobody to wake.
                if queue or self._closed:
                    try:
                        parked.remove(park)
                    except ValueError:
                        park.acquire()  # taken off the list meanwhile: a release is ours
                    if self._closed and not queue:
                        return
                    continue
                park.acquire()
                continue
            busy[number] = now()
            run(task)
