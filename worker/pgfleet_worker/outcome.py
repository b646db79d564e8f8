"""What became of an attempt: carried from the slot that ran it to the settler that records it."""

from __future__ import annotations

import asyncio
import inspect
import random
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple

from pgfleet.errors import DatabaseAway, PgfleetError
from pgfleet_worker.handler import GiveUp, Release, RetryLater, seconds_within
from pgfleet_worker.task import Task, storable, to_json

#: What a reader is told of an exception that was not written for readers.
FAILED = "The task failed; its operators see why."
#: Characters of a failure's text, at most: for the reader, and for operators. It goes with every list of tasks.
MOST_SHOWN, MOST_DETAIL = 4_000, 64_000


@dataclass(frozen=True)
class Export:
    """A file that stands under its final name on the volume: settling publishes it to its owner with the success."""

    filename: str
    owner_id: int
    rows: int
    bytes: int
    sha256: str
    format: str = "csv"

    def result(self) -> dict[str, Any]:
        """What the task's result says of it."""
        return {"filename": self.filename, "rows": self.rows, "bytes": self.bytes, "sha256": self.sha256}


class Claimed(NamedTuple):
    """A row of ``claim_tasks``: the columns in the function's order."""

    id: int
    type: str
    data: str | None
    created_by: int
    attempt: int
    priority: int
    failure_count: int
    timeout: float | None
    checkpoint: str | None


#: :meth:`Claimed._make` without its check of the length, which costs as much again as the rest of loading a row.
claimed_row: Callable[[Sequence[Any]], Claimed] = partial(tuple.__new__, Claimed)


# Each outcome begins with its fence. ``cpu_seconds`` and ``peak_memory`` (bytes) are None where they are not known.


class Success(NamedTuple):
    """The handler returned; ``result`` is JSON, or None."""

    id: int
    attempt: int
    worker: str
    type: str
    result: str | None
    cpu_seconds: float | None = None
    peak_memory: int | None = None


#: A success of all its fields, past its own ``__new__``: a function in Python that takes as long again.
success_row: Callable[[Sequence[Any]], Success] = partial(tuple.__new__, Success)


class Published(NamedTuple):
    """The handler returned an export."""

    id: int
    attempt: int
    worker: str
    type: str
    export: Export
    cpu_seconds: float | None = None
    peak_memory: int | None = None


class Failure(NamedTuple):
    """The handler raised; ``error`` is for the reader, ``detail`` for operators."""

    id: int
    attempt: int
    worker: str
    type: str
    error: str
    detail: str
    give_up: bool = False
    retry_in: timedelta | None = None
    cpu_seconds: float | None = None
    peak_memory: int | None = None


class CalledOff(NamedTuple):
    """Somebody cancelled the task, and its work has stopped."""

    id: int
    attempt: int
    worker: str
    type: str
    cpu_seconds: float | None = None
    peak_memory: int | None = None


class Released(NamedTuple):
    """Back to the fleet, after ``delay`` seconds, without a failure; ``reason`` says why where it had begun."""

    id: int
    attempt: int
    worker: str
    type: str
    delay: float = 0.0
    reason: str = ""


Outcome = Success | Published | Failure | CalledOff | Released


@dataclass(frozen=True)
class Told:
    """What a process of the handler's own has told: the outcome as it is."""

    outcome: Outcome


def awaited(value: Any) -> Any:
    """What a plain function has answered: of a wrapper around an ``async def`` that is the coroutine, run here to its end."""
    return asyncio.run(value) if inspect.iscoroutine(value) else value


def of_return(task: Task, value: Any) -> Outcome:
    """The outcome of a handler that returned ``value``."""
    fence = task.id, task.attempt, task.worker, task.type
    if isinstance(value, Told):
        return value.outcome
    try:
        if isinstance(value, Export):
            to_json(value.result())  # goes with it, and may have to go over a wire first
            return Published(*fence, value)
        return Success(*fence, None if value is None else to_json(value))
    except (TypeError, ValueError, RecursionError) as error:
        problem = TypeError(f"The handler's return value can't be told in JSON: {error}")
        return of_exception(task, problem)


def of_exception(task: Task, error: BaseException) -> Failure | Released:
    """The outcome of a handler that raised ``error`` although nobody had called it off.

    A :class:`~pgfleet.errors.PgfleetError` was written for people and is shown to the reader; of any other exception
    the reader learns only that the work failed, since its text may tell what is not theirs to know. Where Postgres was
    away (:class:`~pgfleet.errors.DatabaseAway`) the task is not to blame: it goes back, and comes again a little later.
    """
    fence = task.id, task.attempt, task.worker, task.type
    try:
        if isinstance(error, Release):
            reason = storable(_shortened(error.message, MOST_SHOWN)) or "not now, says its handler"
            return Released(*fence, seconds_of(error), reason)
        if isinstance(error, DatabaseAway):
            pause = random.uniform(1.0, 3.0)  # noqa: S311 - spreads load, guards nothing
            return Released(*fence, pause, "the database is away")
        shown = (str(error) if isinstance(error, PgfleetError) else "") or FAILED
        retry_in = timedelta(seconds=seconds_of(error)) if isinstance(error, RetryLater) else None
        give_up = isinstance(error, GiveUp)
        return Failure(*fence, storable(_shortened(shown, MOST_SHOWN)), trace(error), give_up, retry_in)
    except BaseException:  # one that can't even be described must not cost the slot, nor the worker
        return Failure(*fence, FAILED, trace(error), issubclass(type(error), GiveUp))


def seconds_of(error: Release | RetryLater) -> float:
    """How long ``error`` asks to wait; a class of an author's own may have made anything of it."""
    return seconds_within(type(error).__name__, error.seconds)


def described(error: BaseException) -> str:
    """``error`` in a line, whatever it is."""
    try:
        return storable(_shortened(f"{type(error).__name__}: {error}", MOST_SHOWN))
    except BaseException:
        return f"{type(error).__name__}, which can't be told"


def of_stop(
    task: Task, detail: str, cpu_seconds: float | None = None, peak_memory: int | None = None
) -> Failure | CalledOff | Released:
    """The outcome of an attempt that was called off and has ended without a return value, or whose thread won't end."""
    usage = cpu_seconds, peak_memory
    fence = task.id, task.attempt, task.worker, task.type
    if task.why == "cancelled":
        return CalledOff(*fence, *usage)
    if task.why == "timeout":
        return Failure(*fence, f"Timed out after {task.limit:g} s.", detail, False, None, *usage)
    return Released(*fence, reason="the worker stops" if task.why == "stopping" else "the worker has lost it")


def trace(error: BaseException) -> str:
    """The traceback, for operators; of a long one its two ends; of an error that can't be told what there is to tell."""
    try:
        text = "".join(traceback.format_exception(error))
    except BaseException:
        where: TracebackType | None = BaseException.__dict__["__traceback__"].__get__(error)
        text = "".join([*traceback.format_tb(where), f"{type(error).__qualname__}, which can't be told\n"])
    return storable(_shortened(text, MOST_DETAIL))


def _shortened(text: str, most: int) -> str:
    left_out = len(text) - most
    if left_out <= 0:
        return text
    return f"{text[: most // 2]} [... {left_out} characters left out ...] {text[-most // 2 :]}"
