"""What became of an attempt: carried from the slot that ran it to the settler that records it."""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

from pgfleet.errors import PgfleetError
from pgfleet_worker.handler import GiveUp, RetryLater


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
    """Not started, or stopped on the worker's own account: back to the fleet, no failure."""

    id: int
    attempt: int
    worker: str


Outcome = Success | Published | Failure | Released


def of_return(id: int, attempt: int, worker: str, value: Any) -> Outcome:
    """The outcome of a handler that returned ``value``."""
    if value is None:
        return Success(id, attempt, worker, None)
    if isinstance(value, Export):
        return Published(id, attempt, worker, value)
    try:
        return Success(id, attempt, worker, storable(json.dumps(value, ensure_ascii=False, allow_nan=False)))
    except (TypeError, ValueError) as error:
        problem = TypeError(f"The handler's return value can't be told in JSON: {error}")
        return of_exception(id, attempt, worker, problem)


def of_exception(id: int, attempt: int, worker: str, error: BaseException) -> Failure:
    """The outcome of a handler that raised ``error``.

    A :class:`~pgfleet.errors.PgfleetError` was written for people and is shown to the reader; of any other exception
    the reader learns only that the work failed, since its text may tell what is not theirs to know.
    """
    shown = str(error) if isinstance(error, PgfleetError) else "The task failed; its operators see why."
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
