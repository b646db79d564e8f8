"""A scheduler as a library: tasks that are functions, with triggers, retry policies and a history, in this process.

    scheduler = Scheduler(max_running_tasks=4)
    scheduler.add_task(Task("sync", function=sync, args=("books",), triggers=[PeriodicTrigger(interval=3600)]))
    scheduler.start()

A thin face: a task is a schedule of the fleet, whose runs are tasks of the scheduler's own type, and the scheduler is a worker
that takes this type alone, in threads of this process. So all that holds for schedules holds for these, and `pgfleet schedules`
and the API show them. Postgres has what is due and what was; the functions and their arguments stay here.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from datetime import UTC, datetime
from functools import partial
from typing import Any

import structlog

from pgfleet import log, schedules
from pgfleet.errors import InvalidSchedule, ScheduleNotFound
from pgfleet.settings import Settings, from_env
from pgfleet_worker.declaration import Declaration
from pgfleet_worker.handler import TYPE, GiveUp, Handler, Release
from pgfleet_worker.loop import Worker
from pgfleet_worker.outcome import Released, Told, of_exception, of_return
from pgfleet_worker.scheduled import (
    Event,
    EventTrigger,
    Execution,
    OneTimeTrigger,
    PeriodicTrigger,
    RetryPolicy,
    Status,
    Task,
    call,
    event_of,
    execution_of,
    schedule_of,
)
from pgfleet_worker.stock import Stock
from pgfleet_worker.task import Task as Run
from pgfleet_worker.usage import Shared

__all__ = [
    "Event", "EventTrigger", "Execution", "OneTimeTrigger", "PeriodicTrigger", "RetryPolicy", "Scheduler", "Status", "Task",
]  # fmt: skip


#: Seconds until a run whose task this process doesn't know comes again: another's may.
ELSEWHERE = 5.0
#: Executions of a task in memory that are kept.
MOST_KEPT = 100


class Scheduler:
    """Runs the tasks added to it, ``max_running_tasks`` at a time, from :meth:`start` to :meth:`stop`. From any thread.

    ``name`` is the type of its tasks. Schedulers of one name, in any number of processes, share the runs: give each the same
    tasks. ``max_running_in_fleet``: the most at a time over all of them. ``settings``: those of the environment by default.
    """

    def __init__(
        self,
        *,
        max_running_tasks: int = 10,
        max_running_in_fleet: int | None = None,
        name: str = "scheduler",
        settings: Settings | None = None,
    ) -> None:
        if not TYPE.fullmatch(name):
            raise ValueError(f"name={name!r}: expected lower-case letters, digits and _ . -, a letter first")
        if max_running_tasks < 1:
            raise ValueError(f"max_running_tasks={max_running_tasks!r}: expected 1 or more")
        self.name = name
        self.max_running_tasks = max_running_tasks
        self._in_fleet = max_running_in_fleet
        self._settings = dataclasses.replace(settings or from_env(), concurrency=max_running_tasks)
        self._stock = Stock(self._settings, name)
        self._handler = Handler(name, self._run, f"Tasks of the scheduler {name}.")
        self._lock = threading.RLock()
        #: The worker's slots alone would leave out what runs in memory.
        self._room = threading.Semaphore(max_running_tasks)
        self._in_memory: dict[str, deque[Execution]] = {}
        self._tasks: dict[str, Task] = {}
        self._usage = Shared()
        self._worker: Worker | None = None
        self._thread: threading.Thread | None = None

    # -- what

    @property
    def tasks(self) -> list[Task]:
        """Those added and not removed."""
        return list(self._tasks.values())

    def add_task(self, task: Task) -> None:
        """Have it run by its triggers: from now on, or from :meth:`start`. One that is in the fleet already keeps its clock.

        Raises ``ValueError`` for a second task of its id and :class:`~pgfleet.errors.InvalidSchedule` for what can't be, or
        where a schedule of that name is not this scheduler's.
        """
        with self._lock:
            if task.id in self._tasks:
                raise ValueError(f'A task "{task.id}" has been added already: remove it first.')
            schedules.check(schedule_of(task, self.name))
            if not task.persistent:
                if self.running:
                    raise ValueError(f'Task "{task.id}" is not persistent: add it before the scheduler is started.')
                self._in_memory[task.id] = deque(maxlen=MOST_KEPT)
            elif self.running:
                self._stock.put([task])
            self._tasks[task.id] = task
            task.scheduler = self

    def remove_task(self, id: str) -> None:
        """Forget it, here and in the fleet: what has not started is cancelled, what runs ends as it may.

        Raises :class:`~pgfleet.errors.ScheduleNotFound` for one that was not added.
        """
        with self._lock:
            task = self._added(id)
            if not task.persistent:
                if self.running:
                    raise ValueError(f'Task "{id}" is not persistent: remove it while the scheduler is stopped.')
                del self._tasks[id], self._in_memory[id]
                return
            del self._tasks[id]
            self._stock.remove(id)

    def enable(self, id: str) -> None:
        """Let its triggers start it again, from now on. Raises ScheduleNotFound."""
        self._set_enabled(id, True)

    def disable(self, id: str) -> None:
        """Let its triggers pass it by; :meth:`trigger` still runs it. Raises ScheduleNotFound."""
        self._set_enabled(id, False)

    # -- when

    @property
    def running(self) -> bool:
        """Has it been started, and not stopped?"""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Put the tasks into the fleet and begin to run what is due; nothing where it runs already.

        Raises :class:`~pgfleet.errors.DatabaseAway`, :class:`~pgfleet.errors.SchemaError`, or what :meth:`add_task` does.
        """
        with self._lock:
            if self.running:
                return
            if not structlog.is_configured():
                log.configure(self._settings)
            self._stock.open(self._handler, self._in_fleet)
            self._stock.put([task for task in self.tasks if task.persistent])
            in_memory = [
                Declaration(schedule_of(task, self.name), partial(self._run_in_memory, task), in_memory=True)
                for task in self.tasks
                if not task.persistent
            ]
            self._worker = Worker(self._settings, {self.name: self._handler}, in_memory)
            self._thread = threading.Thread(target=self._worker.run, name=f"scheduler-{self.name}", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Start nothing more here, and return when what runs has ended: within ``PGFLEET_GRACE``, or it is called off.
        Not for a task's own function, which it would wait for.

        What other schedulers of this name don't take meanwhile waits, or is caught up, for :meth:`resume`.
        """
        with self._lock:
            worker, thread = self._worker, self._thread
            self._worker = self._thread = None
        if worker is not None and thread is not None:  # without the lock: a run may want it before it ends
            worker.stop()
            thread.join()

    def resume(self) -> None:
        """Go on after :meth:`stop`."""
        self.start()

    def trigger(self, id: str) -> int:
        """Run it now, whatever its clock; answers the run's id.

        Raises ScheduleNotFound, or :class:`~pgfleet.errors.RunUnfinished` while a run of it is waiting or going.
        """
        with self._stock.connect() as conn:
            return schedules.trigger(conn, self._stored(id).id)

    def emit(self, event: str, payload: Any = None) -> int:
        """Tell the whole fleet of an event; answers how many runs that made, of whatever schedule."""
        with self._stock.connect() as conn:
            return schedules.emit(conn, event, payload)

    # -- how

    @property
    def running_count(self) -> int:
        """How many runs are going in this process."""
        return self._usage.running

    def history(self, id: str, limit: int = 50) -> list[Execution]:
        """The task's latest executions, the latest first, wherever they ran."""
        if id in self._in_memory:
            return list(self._in_memory[id])[:limit]
        with self._stock.connect() as conn:
            return [execution_of(row) for row in schedules.executions(conn, id, limit=limit)]

    # -- its own

    def _set_enabled(self, id: str, enabled: bool) -> None:
        with self._lock:
            task = self._stored(id)
            with self._stock.connect() as conn:
                (schedules.enable if enabled else schedules.disable)(conn, id)
            task.enabled = enabled

    def _run(self, run: Run) -> Told:
        """One run, in a thread of the worker."""
        id = run.data["task"] if isinstance(run.data, dict) else None
        task = self._tasks.get(str(id))
        if task is None:
            if self._stock.has(str(id)):
                raise Release(f'no task "{id}" was added to this scheduler', seconds=ELSEWHERE)
            raise GiveUp(f'The task "{id}" has been removed.')
        with self._room, self._usage.measured() as cost:
            try:
                outcome = of_return(run, call(task, event_of(run.data)))
            except Exception as error:
                if run.cancelled:
                    raise
                outcome = of_exception(run, error)
        if isinstance(outcome, Released):
            return Told(outcome)
        return Told(outcome._replace(cpu_seconds=cost.cpu_seconds, peak_memory=cost.peak_memory))

    def _run_in_memory(self, task: Task, run: Run) -> None:
        """Likewise, in a thread of its own. The fleet keeps no history of it: we do."""
        results, error = None, None
        with self._room:
            started = datetime.now(UTC)
            try:
                with self._usage.measured() as cost:
                    results = call(task, None)
            except BaseException as problem:
                error = f"{type(problem).__name__}: {problem}"
                raise
            finally:
                status = Status.SUCCESS if error is None else Status.FAILED
                usage = cost.cpu_seconds, cost.peak_memory
                ended = datetime.now(UTC)
                self._in_memory[task.id].appendleft(
                    Execution(0, run.attempt, started, ended, status, error, None, results, *usage)
                )

    def _added(self, id: str) -> Task:
        try:
            return self._tasks[id]
        except KeyError:
            raise ScheduleNotFound(f'No task "{id}" was added to this scheduler.', hint="Add it: add_task().") from None

    def _stored(self, id: str) -> Task:
        task = self._added(id)
        if not task.persistent:
            raise InvalidSchedule(f'Task "{id}" is not persistent: its triggers alone start it.')
        return task
