"""The slots that run ``async def`` handlers: one event loop in one thread, started with the first such task."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from pgfleet_worker.outcome import Claimed
from pgfleet_worker.part import Part

#: A loop that for so many seconds has been within one task, and has not come to what was offered, is blocked.
BLOCKED = 0.02


def cancel_once(task: asyncio.Task[None]) -> None:
    """Cancel ``task`` unless that has been asked already: a second time would interrupt its cleaning up."""
    if not task.cancelling():
        task.cancel()


class AsyncSlots:
    """Up to ``size`` coroutines at once; the rest of what was offered waits in the loop's own queue.

    ``abandoned(task)`` is told of one that was cancelled before its first step, of which ``run`` knows nothing; ``again()``
    that the loop has come to what was offered, where that took :data:`BLOCKED` seconds or more; from the loop's thread both.
    """

    def __init__(
        self,
        size: int,
        run: Callable[[Claimed], Awaitable[None]],
        abandoned: Callable[[Claimed], None],
        again: Callable[[], None] = lambda: None,
    ) -> None:
        self.size = size
        self._run = run
        self._abandoned = abandoned
        self._again = again
        self._queue: deque[Claimed] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        #: Of these, the ones that have not taken their first step.
        self._unbegun: set[asyncio.Task[None]] = set()
        #: When each running coroutine began, by task id.
        self.busy: dict[int, float] = {}
        #: Since when, on the monotonic clock, the loop has not come to what was offered; None where it has.
        self._asked: float | None = None
        self._step: asyncio.Task[Any] | None = None
        self._step_since = 0.0

    def offer(self, tasks: Iterable[Claimed]) -> None:
        """Queue ``tasks`` and have the loop start what fits."""
        self._queue.extend(tasks)
        if self._asked is None:
            self._asked = time.monotonic()
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            Part(target=self._run_forever, args=(self._loop,), name="async-slots").start()
        self._loop.call_soon_threadsafe(self._fill)

    @staticmethod
    def _run_forever(loop: asyncio.AbstractEventLoop) -> None:
        while True:  # also where a handler has stopped the loop, and all others with it
            # Of a task that a handler made: asyncio ends the loop besides telling who awaits that task.
            with suppress(SystemExit, KeyboardInterrupt):
                loop.run_forever()

    @property
    def queued(self) -> int:
        """Tasks that have not begun."""
        return len(self._queue)

    @property
    def unanswered(self) -> float:
        """For so many seconds the loop has not come to what was offered."""
        asked = self._asked
        return 0.0 if asked is None else time.monotonic() - asked

    def blocked_for(self) -> float:
        """Look at the loop: how many of these seconds it has been within one and the same task, as far as such looks have told.

        From :data:`BLOCKED` on that task holds it up, and no other can begin; a loop that is busy with many, or waits for the
        interpreter before it comes to one, is late and will.
        """
        unanswered, loop = self.unanswered, self._loop
        step = asyncio.current_task(loop) if unanswered and loop is not None else None
        now = time.monotonic()
        if step is None or step is not self._step:
            self._step, self._step_since = step, now
        return min(unanswered, now - self._step_since)

    def take_back(self) -> list[Claimed]:
        """Empty the queue: the tasks that have not begun."""
        back = []
        while True:
            try:
                back.append(self._queue.popleft())
            except IndexError:
                return back

    def cancel(self) -> None:
        """Cancel every running coroutine."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        for task in self._tasks.values():
            cancel_once(task)

    def _fill(self) -> None:
        late, self._asked = self.unanswered >= BLOCKED, None
        if late:
            self._again()
        while len(self._tasks) < self.size:
            try:
                claimed = self._queue.popleft()
            except IndexError:
                return
            self.busy[claimed.id] = time.monotonic()
            task = asyncio.ensure_future(self._begin(claimed), loop=self._loop)
            self._tasks[claimed.id] = task
            self._unbegun.add(task)
            task.add_done_callback(partial(self._done, claimed))

    async def _begin(self, claimed: Claimed) -> None:
        self._unbegun.discard(asyncio.current_task())
        await self._run(claimed)

    def _done(self, claimed: Claimed, task: asyncio.Task[None]) -> None:
        if self._tasks.get(claimed.id) is task:  # else a newer attempt has its place
            del self._tasks[claimed.id]
            self.busy.pop(claimed.id, None)
        if task in self._unbegun:  # nor is one that was cancelled as it returned: what became of it has been told
            self._unbegun.discard(task)
            self._abandoned(claimed)
        if self._queue:
            self._fill()
