"""One attempt: from a claimed row to what became of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pgfleet import db
from pgfleet.log import Logger
from pgfleet.settings import Settings
from pgfleet_worker.handler import Handler
from pgfleet_worker.outcome import Claimed, Outcome, Released, of_exception, of_return
from pgfleet_worker.task import Task


class Pace:
    """How long a type's tasks take, as a moving average in seconds; None until the first has ended."""

    __slots__ = ("mean",)

    def __init__(self) -> None:
        self.mean: float | None = None

    def observe(self, seconds: float) -> None:
        """One more task took ``seconds``. The average leans a tenth towards it."""
        self.mean = seconds if self.mean is None else self.mean + (seconds - self.mean) * 0.1


class Attempts:
    """Runs claimed tasks with their handlers; ``settle(outcome)`` is told what became of each."""

    def __init__(
        self, settings: Settings, log: Logger, handlers: dict[str, Handler], settle: Callable[[Outcome], None]
    ) -> None:
        self._settings = settings
        self._log = log
        self._tells = settings.log_level == "debug"  # a call below the level is cheap, not free: 0.6 of 7 us a task
        self._functions = {type: handler.function for type, handler in handlers.items()}
        self._settle = settle
        self.paces = {type: Pace() for type in handlers}
        #: The id under which this process's claims are made at present.
        self.worker = ""
        #: What runs now, by task id.
        self.running: dict[int, Task] = {}
        #: Set at shutdown: an attempt that fails once it was told to stop is given back, not failed.
        self.stopping = False

    def run(self, claimed: Claimed) -> None:
        """Run one task in the calling thread. Whatever its handler raises, it returns."""
        id, type, data, created_by, attempt, *_ = claimed
        worker, task, began = self.worker, Task(id, type, data, created_by, attempt, self), time.perf_counter()
        self.running[id] = task
        try:
            outcome = of_return(id, attempt, worker, self._functions[type](task))
        except BaseException as error:  # SystemExit too: a handler must not end the worker
            outcome = self._failed(claimed, worker, task, error)
        self._end(task, time.perf_counter() - began, outcome)

    async def run_async(self, claimed: Claimed) -> None:
        """Run one task on the event loop."""
        id, type, data, created_by, attempt, *_ = claimed
        worker, task, began = self.worker, Task(id, type, data, created_by, attempt, self), time.perf_counter()
        self.running[id] = task
        try:
            outcome = of_return(id, attempt, worker, await self._functions[type](task))
        except asyncio.CancelledError as error:
            if not task.cancelled:
                outcome = self._failed(claimed, worker, task, error)
            else:
                outcome = Released(claimed.id, claimed.attempt, worker)
        except BaseException as error:
            outcome = self._failed(claimed, worker, task, error)
        self._end(task, time.perf_counter() - began, outcome)

    @property
    def export_dir(self) -> Path:
        """The volume that API and workers share."""
        return self._settings.export_dir

    @contextmanager
    def connect(self) -> Iterator[db.Connection]:
        """A connection for one handler, in a transaction; closed at the end of the block."""
        with db.connect(self._settings, "pgfleet handler", autocommit=False) as conn:
            yield conn

    def _failed(self, claimed: Claimed, worker: str, task: Task, error: BaseException) -> Outcome:
        if task.cancelled and self.stopping:
            return Released(claimed.id, claimed.attempt, worker)
        return of_exception(claimed.id, claimed.attempt, worker, error)

    def _end(self, task: Task, seconds: float, outcome: Outcome) -> None:
        if self.running.get(task.id) is task:
            del self.running[task.id]
        self.paces[task.type].observe(seconds)
        if self._tells:
            self._log.debug("task.ran", task=task.id, type=task.type, attempt=task.attempt, seconds=seconds)
        self._settle(outcome)
