"""One attempt: from a claimed row to what became of it."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

from pgfleet.log import Logger
from pgfleet.settings import Settings
from pgfleet_worker import forks
from pgfleet_worker.aio import cancel_once
from pgfleet_worker.children import Children
from pgfleet_worker.handler import Handler
from pgfleet_worker.loans import Loans
from pgfleet_worker.outcome import (
    Claimed,
    Outcome,
    Published,
    Released,
    of_exception,
    of_return,
    of_stop,
    success_row,
    trace,
)
from pgfleet_worker.report import Reporter
from pgfleet_worker.task import Task, Why
from pgfleet_worker.watch import Watch

#: Processor time is told from this many seconds on; types whose tasks take less on average are not measured at all. Reading
#: a thread's clock costs 0.6 us, twice a task: a sixth of all that a no-op costs the worker. And what is told settles alone.
LEAST_CPU = 0.001

IGNORED = "It did not heed its cancellation for {:g} s: its thread is left to itself, and its slot with it."


class Pace:
    """How long a type's tasks take, as a moving average in seconds; None until the first has ended."""

    __slots__ = ("mean",)

    def __init__(self) -> None:
        self.mean: float | None = None

    def observe(self, seconds: float) -> None:
        """One more task took ``seconds``. The average leans a tenth towards it."""
        self.mean = seconds if self.mean is None else self.mean + (seconds - self.mean) * 0.1


class Kind:
    """All that a run needs to know of its type, in one look-up."""

    __slots__ = ("function", "in_process", "pace", "timeout")

    def __init__(self, handler: Handler, function: Callable[[Task], Any], pace: Pace) -> None:
        self.function = function
        self.in_process = handler.isolation == "process"
        self.pace = pace
        #: In seconds; None: as long as it takes. The type's row wins over the handler, see :meth:`Attempts.limit`.
        self.timeout: float | None = None if handler.timeout is None else handler.timeout.total_seconds()


class CoroutineReins:
    """The reins of an async handler."""

    __slots__ = ("_task",)

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def ask(self) -> None:
        """Cancel it; from any thread."""
        with suppress(RuntimeError):  # a loop of its own, which has ended with it
            self._task.get_loop().call_soon_threadsafe(cancel_once, self._task)

    def force(self) -> bool:
        """Nothing stops a coroutine that goes on."""
        return False


async def in_hand(task: Task, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Await ``coroutine``, of a plain function around an ``async def``, so that it is cancelled when ``task`` is called off."""
    current = asyncio.current_task()
    task.reins = None if current is None else CoroutineReins(current)
    if task.cancelled and task.reins is not None:  # before there was anything to cancel
        task.reins.ask()
    return await coroutine


class Attempts(Loans):
    """Runs claimed tasks with their handlers; ``settle(outcome)`` is told what became of each, ``say(child=…)`` and
    ``say(reaped=…)`` of the processes that come and go."""

    def __init__(
        self,
        settings: Settings,
        log: Logger,
        handlers: dict[str, Handler],
        settle: Callable[[Outcome], None],
        say: Callable[..., None],
    ) -> None:
        super().__init__(settings)
        self._log = log
        self._tells = settings.log_level == "debug"  # a call below the level is cheap, not free: 0.6 of 7 us a task
        self._settle = settle
        self.paces = {type: Pace() for type in handlers}
        self._origin = forks.Origin()
        #: The id under which this process's claims are made at present.
        self.worker = ""
        #: What runs now, by task id and attempt: an attempt whose worker id was lost may still run beside the task's next one.
        self.running: dict[tuple[int, int], Task] = {}
        #: What was called off, has not heeded it and can't be stopped: settled already, but its slot is still taken.
        self.abandoned: set[Task] = set()
        self._stops = False
        self._ending = threading.Lock()
        self._watch = Watch(self._is_running)
        self._reporter = Reporter(settings, log, self._cancel, self._is_running)
        self._children = Children(settings, log, self, self._limit, say)
        self._kinds = {type: Kind(h, self._function(h), self.paces[type]) for type, h in handlers.items()}

    def _function(self, handler: Handler) -> Callable[[Task], Any]:
        return self._children.runner(handler) if handler.isolation == "process" else handler.function

    def close(self) -> None:
        """End the handlers' processes; for the end of the worker."""
        self._children.close()

    # -- run

    def run(self, claimed: Claimed) -> None:
        """Run one task in the calling thread. Whatever its handler raises, it returns."""
        id, type, data, created_by, attempt, _, _, timeout, saved = claimed
        kind, worker, began = self._kinds[type], self.worker, time.perf_counter()
        task = Task(id, type, data, created_by, attempt, self, saved, worker, began)
        self.running[id, attempt] = task
        if self._stops:  # taken by its slot when that was decided, and not yet there to be told
            self._cancel(task, "stopping")
        if timeout is not None or kind.timeout is not None:
            task.limit = timeout or kind.timeout
            if not kind.in_process:  # else its time runs from when the process has begun with it
                self._limit(task)
        mean = kind.pace.mean
        cpu = None if mean is not None and mean < LEAST_CPU else time.thread_time()
        if self._tells:
            self._bound(task).debug("task.started")
        try:
            value = kind.function(task)
            if value is None:
                outcome: Outcome = success_row((id, attempt, worker, type, None, None, None))
            else:
                outcome = of_return(task, asyncio.run(in_hand(task, value)) if inspect.iscoroutine(value) else value)
        except BaseException as error:  # SystemExit too: a handler must not end the worker
            outcome = self._raised(task, error)
        if cpu is not None and (cpu := time.thread_time() - cpu) >= LEAST_CPU:
            outcome = _measured(outcome, cpu)
        self._end(task, kind, outcome)

    async def run_async(self, claimed: Claimed) -> None:
        """Run one task on the event loop. Its processor time is unknown: all of them share one thread."""
        id, type, data, created_by, attempt, _, _, timeout, saved = claimed
        kind, worker, began = self._kinds[type], self.worker, time.perf_counter()
        task = Task(id, type, data, created_by, attempt, self, saved, worker, began)
        current = asyncio.current_task()
        task.reins = None if current is None else CoroutineReins(current)
        self.running[id, attempt] = task
        if timeout is not None or kind.timeout is not None:
            task.limit = timeout or kind.timeout
            self._limit(task)
        if self._tells:
            self._bound(task).debug("task.started")
        try:
            outcome = of_return(task, await kind.function(task))
        except BaseException as error:
            outcome = self._raised(task, error)
        self._end(task, kind, outcome)

    def _raised(self, task: Task, error: BaseException) -> Outcome:
        if self._origin.left:
            forks.end(error)
        if task.cancelled:
            return of_stop(task, trace(error))
        return of_exception(task, error)

    def _end(self, task: Task, kind: Kind, outcome: Outcome) -> None:
        if self._origin.left:
            forks.end(None)
        seconds = time.perf_counter() - task.began
        if self._is_running(task):
            self.running.pop((task.id, task.attempt), None)
        abandoned = False
        if task.cancelled:  # looked at after leaving `running`: who abandons it looks there, under the lock
            with self._ending:
                abandoned = task in self.abandoned
                self.abandoned.discard(task)
        kind.pace.observe(seconds)
        if self._tells:
            self._bound(task).debug("task.ran", seconds=seconds)
        if abandoned and not isinstance(outcome, Published):  # a file has to be withdrawn
            # Settled when it was abandoned. It is not left to the fence: where a crash of Postgres took the claim back, this
            # worker may have made it anew, under the same attempt's number.
            self._bound(task).warning("task.lost", outcome=type(outcome).__name__.lower())
            return
        self._settle(outcome)

    # -- stop

    def cancel(self, id: int, attempt: int, why: Why) -> bool:
        """Call off this attempt: its handler sees ``task.cancelled``, a coroutine is cancelled, a process gets SIGTERM.

        What then raises ends as ``why`` says: cancelled, failed (timed out), given back. What finishes nonetheless has
        succeeded. What does neither within ``PGFLEET_CANCEL_GRACE`` is killed, or abandoned where nothing can stop it.
        The first reason stands. From any thread; False where this attempt does not run here.
        """
        task = self.running.get((id, attempt))
        if task is None:
            return False
        self._cancel(task, why)
        return True

    def cancel_all(self, why: Why) -> int:
        """:meth:`cancel` all that runs, and where the worker stops all that still begins; answers how many run."""
        self._stops = self._stops or why == "stopping"
        tasks = list(self.running.values())
        for task in tasks:
            self._cancel(task, why)
        return len(tasks)

    def limit(self, timeouts: Mapping[str, float | None]) -> None:
        """The timeouts that the types' rows say, in seconds, for tasks that start from now on."""
        for type, timeout in timeouts.items():
            kind = self._kinds.get(type)
            if kind is not None:
                kind.timeout = timeout

    def _cancel(self, task: Task, why: Why) -> None:
        with self._ending:
            if task.cancelled:
                return
            task.why = why
            task.cancelled = True
        if why == "timeout":
            self._bound(task).warning("task.timed_out", seconds=task.limit)
        elif self._tells:
            self._bound(task).debug("task.cancelling", why=why)
        if task.reins is not None:
            task.reins.ask()
        self._watch.at(time.monotonic() + self._settings.cancel_grace, task, self._overdue)

    def _limit(self, task: Task) -> None:
        if task.limit is not None:
            self._watch.at(time.monotonic() + task.limit, task, lambda task: self._cancel(task, "timeout"))

    def _overdue(self, task: Task) -> None:
        """It was called off a grace ago and still runs."""
        if task.reins is not None and task.reins.force():
            return
        with self._ending:
            if not self._is_running(task):
                return
            del self.running[task.id, task.attempt]
            self.abandoned.add(task)
        self._bound(task).error("task.abandoned", why=task.why)
        self._settle(of_stop(task, IGNORED.format(self._settings.cancel_grace)))

    def _is_running(self, task: Task) -> bool:
        return self.running.get((task.id, task.attempt)) is task

    # -- what a task asks of its process

    def progress(self, task: Task, done: float, total: float, step: str | None) -> None:
        """See :meth:`Task.progress`."""
        self._origin.require()
        self._reporter.progress(task, done, total, step)

    def checkpoint(self, task: Task, text: str) -> None:
        """See :meth:`Task.checkpoint`."""
        self._origin.require()
        self._reporter.checkpoint(task, text)

    def _bound(self, task: Task) -> Logger:
        return self._log.bind(task=task.id, type=task.type, attempt=task.attempt, worker=task.worker)


def _measured(outcome: Outcome, cpu_seconds: float) -> Outcome:
    if isinstance(outcome, Released) or outcome.cpu_seconds is not None:
        return outcome
    return outcome._replace(cpu_seconds=cpu_seconds)
