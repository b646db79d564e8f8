"""What became of an attempt: carried from the slot that ran it to the settler that records it."""

from __future__ import annotations

import json
import random
import traceback
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

from pgfleet.db import is_away
from pgfleet.errors import PgfleetError
from pgfleet_worker.handler import GiveUp, RetryLater

#: The longest result of a task, in characters.
MOST_RESULT = 16 * 1024 * 1024
#: What a reader is told of an exception that was not written for readers.
FAILED = "The task failed; its operators see why."


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
    #: Seconds, where the task has a timeout of its own.
    timeout: float | None = None
    #: JSON, as an earlier attempt left it.
    checkpoint: str | None = None


class Success(NamedTuple):
    """The handler returned; ``result`` is JSON, or None."""

    id: int
    attempt: int
    worker: str
    result: str | None


class Published(NamedTuple):
    """The handler returned an export."""

    id: int
    attempt: int
    worker: str
    export: Export


class Failure(NamedTuple):
    """The handler raised; ``error`` is for the reader, ``detail`` for operators."""

    id: int
    attempt: int
    worker: str
    error: str
    detail: str
    give_up: bool
    retry_in: timedelta | None


class Released(NamedTuple):
    """Not started, or stopped through no fault of its own: back to the fleet, after ``delay`` seconds; no failure."""

    id: int
    attempt: int
    worker: str
    delay: float = 0.0


Outcome = Success | Published | Failure | Released


def of_return(id: int, attempt: int, worker: str, value: Any) -> Outcome:
    """The outcome of a handler that returned ``value``."""
    if value is None:
        return Success(id, attempt, worker, None)
    if isinstance(value, Export):
        return Published(id, attempt, worker, value)
    try:
        text = storable(json.dumps(value, ensure_ascii=False, allow_nan=False))
        if len(text) > MOST_RESULT:
            raise ValueError(f"it has {len(text)} characters, and {MOST_RESULT} is the most: write it to a file")
        return Success(id, attempt, worker, text)
    except (TypeError, ValueError, RecursionError) as error:
        problem = TypeError(f"The handler's return value can't be told in JSON: {error}")
        return of_exception(id, attempt, worker, problem)


def of_exception(id: int, attempt: int, worker: str, error: BaseException) -> Failure | Released:
    """The outcome of a handler that raised ``error``.

    A :class:`~pgfleet.errors.PgfleetError` was written for people and is shown to the reader; of any other exception
    the reader learns only that the work failed, since its text may tell what is not theirs to know. Where Postgres was
    away the task is not to blame: it goes back, and comes again a little later.
    """
    if is_away(error):
        return Released(id, attempt, worker, delay=random.uniform(1.0, 3.0))  # noqa: S311 - spreads load, guards nothing
    try:
        return _failure(id, attempt, worker, error)
    except Exception as problem:  # an exception that can't even be described must not cost the slot
        return Failure(id, attempt, worker, FAILED, ascii(problem), give_up=False, retry_in=None)


def _failure(id: int, attempt: int, worker: str, error: BaseException) -> Failure:
    shown = str(error) if isinstance(error, PgfleetError) else FAILED
    return Failure(
        id,
        attempt,
        worker,
        storable(shown),
        storable("".join(traceback.format_exception(error))),
        isinstance(error, GiveUp),
        timedelta(seconds=error.seconds) if isinstance(error, RetryLater) else None,
    )


def storable(text: str) -> str:
    """``text`` as Postgres can store it: no NUL, no lone surrogate."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")
