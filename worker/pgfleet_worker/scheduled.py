"""The words of a :class:`~pgfleet_worker.scheduler.Scheduler`: tasks, triggers, retry policies, executions; and what each is to
the fleet."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

from pgfleet.errors import InvalidSchedule
from pgfleet.schedules import CatchUp, Overlap, Schedule, Trigger
from pgfleet_worker.outcome import FAILED


@dataclass(frozen=True)
class PeriodicTrigger:
    """By an ``interval`` (seconds, or a timedelta), or by a ``cron`` expression, read in the task's time zone.

    ``fixed_delay``: the interval counts from the end of a run to the start of the next.
    """

    interval: float | timedelta | None = None
    cron: str | None = None
    fixed_delay: bool = False


@dataclass(frozen=True)
class EventTrigger:
    """Whenever that event is emitted: by :meth:`Scheduler.emit`, the API, or SQL."""

    event: str


@dataclass(frozen=True)
class OneTimeTrigger:
    """Once: a ``delay`` (seconds, or a timedelta) after the task was first added, or ``at`` a time."""

    delay: float | timedelta | None = None
    at: datetime | None = None


AnyTrigger = PeriodicTrigger | EventTrigger | OneTimeTrigger


@dataclass(frozen=True)
class RetryPolicy:
    """Try again so often; ``delay`` (seconds, or a timedelta) before the first time, doubled at each further one."""

    max_retries: int = 0
    delay: float | timedelta = 10.0


class Status(StrEnum):
    """How an execution ended."""

    SUCCESS = "SUCCESS"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Event:
    """What started a run, where no clock did."""

    name: str
    payload: Any = None


@dataclass(frozen=True)
class Execution:
    """One attempt at a run that has ended. A retry is another, of the same ``run`` (the id of the fleet's task; 0: in memory).

    ``results`` is what the function returned, as JSON has it. ``cpu_seconds`` are those of its thread; ``peak_memory``, in
    bytes, is the most that the whole process held meanwhile, None where the system can't tell.
    """

    run: int
    attempt: int
    started: datetime
    ended: datetime
    status: Status
    error: str | None
    event: Event | None
    results: Any
    cpu_seconds: float | None
    peak_memory: int | None


class History(Protocol):
    """What a task asks of its scheduler."""

    def history(self, id: str) -> list[Execution]: ...


@dataclass(eq=False)
class Task:
    """What is run, and when. ``function(*args, **kwargs)``, plain or ``async``, returns what JSON can say; with ``with_event``
    it gets an :class:`Event` or None as ``event``, too.

    ``id`` is the name of its schedule in the fleet. ``enabled`` False: not by itself; see ``Scheduler.disable``.
    ``overlap``, ``catch_up`` and ``timeout`` (seconds) are those of schedules.

    ``persistent`` False: it lives in this process alone, and nothing of it is stored; events, ``Scheduler.trigger`` and
    those three need it stored. It is added before the scheduler starts.
    """

    id: str
    _: dataclasses.KW_ONLY
    function: Callable[..., Any]
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    description: str = ""
    triggers: Sequence[AnyTrigger] = ()
    retry_policy: RetryPolicy = RetryPolicy()
    enabled: bool = True
    priority: int = 0
    overlap: Overlap = "skip"
    catch_up: CatchUp = "once"
    time_zone: str = "UTC"
    timeout: float | None = None
    with_event: bool = False
    persistent: bool = True
    scheduler: History | None = field(default=None, init=False, repr=False)

    @property
    def execution_history(self) -> list[Execution]:
        """Its latest executions, the latest first; empty until it is added to a scheduler."""
        return self.scheduler.history(self.id) if self.scheduler is not None else []


def schedule_of(task: Task, type: str) -> Schedule:
    """What stands for it in the fleet; its runs are tasks of ``type``. Raises InvalidSchedule."""
    stored = [
        *(one for one in task.triggers if isinstance(one, EventTrigger)),
        *([task.timeout] if task.timeout else []),
    ]
    if not task.persistent and (stored or task.overlap != "skip" or task.catch_up != "once" or not task.enabled):
        raise InvalidSchedule(
            f'Task "{task.id}" is not persistent, and has what needs it stored.',
            detail="Those are events, a timeout, overlap and catch-up rules, and being disabled.",
            hint="Leave out persistent=False, or what needs it.",
        )
    return Schedule(
        task.id,
        type,
        tuple(_trigger(task, one) for one in task.triggers),
        data={"task": task.id},
        group=type,
        description=": ".join(filter(None, (task.name, task.description))),
        priority=task.priority,
        enabled=None if task.enabled else False,
        max_retries=task.retry_policy.max_retries,
        retry_delay=_length(task.retry_policy.delay),
        timeout=None if task.timeout is None else timedelta(seconds=task.timeout),
        overlap=task.overlap,
        catch_up=task.catch_up,
        time_zone=task.time_zone,
    )


def call(task: Task, event: Event | None) -> Any:
    """Do it, in the calling thread; answers what the function returns, or its coroutine does."""
    kwargs = {**task.kwargs, "event": event} if task.with_event else task.kwargs
    value = task.function(*task.args, **kwargs)
    return asyncio.run(_awaited(value)) if inspect.isawaitable(value) else value


async def _awaited(value: Any) -> Any:
    return await value


def event_of(data: Any) -> Event | None:
    """The event that a run was made by, of its data; None for a run by the clock or by hand."""
    given = data.get("event") if isinstance(data, dict) else None
    return Event(given["name"], given.get("payload")) if isinstance(given, dict) and "name" in given else None


def execution_of(row: Mapping[str, Any]) -> Execution:
    """A row of :func:`pgfleet.schedules.executions`."""
    succeeded = row["status"] == "success"
    error = row["error"] or {"cancelled": "Cancelled.", "lost": "Its worker was lost."}.get(row["status"])
    if error == FAILED and row["error_detail"]:
        error = row["error_detail"].strip().splitlines()[-1]  # of its traceback: what was raised
    return Execution(
        run=row["task"],
        attempt=row["attempt"],
        started=row["started_at"],
        ended=row["ended_at"],
        status=Status.SUCCESS if succeeded else Status.FAILED,
        error=None if succeeded else error,
        event=event_of(json.loads(row["data"] or "null")),
        results=None if row["result"] is None else json.loads(row["result"]),
        cpu_seconds=row["cpu_seconds"],
        peak_memory=row["peak_memory"],
    )


def _trigger(task: Task, given: AnyTrigger) -> Trigger:
    match given:
        case PeriodicTrigger(interval=None, cron=str(cron), fixed_delay=False):
            return Trigger.crontab(cron)
        case PeriodicTrigger(interval=float() | int() | timedelta() as interval, cron=None):
            return Trigger.interval(_length(interval), fixed_delay=given.fixed_delay)
        case EventTrigger():
            return Trigger.on(given.event)
        case OneTimeTrigger(delay=None, at=datetime() as at):
            return Trigger.once(at=at)
        case OneTimeTrigger(delay=float() | int() | timedelta() as delay, at=None):
            return Trigger.once(after=_length(delay))
    raise InvalidSchedule(
        f'Task "{task.id}" can\'t have the trigger {given!r}.',
        hint="PeriodicTrigger takes an interval or a cron expression, OneTimeTrigger a delay or a time: one of them.",
    )


def _length(given: float | timedelta) -> timedelta:
    return given if isinstance(given, timedelta) else timedelta(seconds=given)
