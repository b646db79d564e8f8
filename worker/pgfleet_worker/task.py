"""What a handler sees of its task."""

from __future__ import annotations

import asyncio
import json
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pgfleet_worker.handler import Cancelled

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from pathlib import Path

    from pgfleet.db import Connection
    from pgfleet_worker.course import Course

#: Why an attempt's work is no longer wanted: somebody cancelled the task, its time is over, the worker stops, or another
#: holds the row.
Why = Literal["cancelled", "timeout", "stopping", "lost"]

_UNREAD: Any = object()


class Surroundings(Protocol):
    """What a task's process lends it."""

    @property
    def export_dir(self) -> Path: ...

    def connect(self) -> AbstractContextManager[Connection]: ...

    def progress(self, task: Task, done: float, total: float, step: str | None) -> None: ...

    def checkpoint(self, task: Task, text: str) -> None: ...


class Reins(Protocol):
    """How to stop what runs a task, where that is more than a thread."""

    def ask(self) -> None:
        """Have it told to stop: a coroutine is cancelled, a process gets SIGTERM."""

    def force(self) -> bool:
        """Stop it now; False where nothing can."""


class Task:
    """One attempt at one task: made by the worker for its handler, good for the length of the call."""

    __slots__ = (
        "_data", "_process", "_saved", "_text", "attempt", "began", "cancelled", "course", "created_by", "id", "limit",
        "reins", "type", "why", "worker",
    )  # fmt: skip

    def __init__(
        self,
        id: int,
        type: str,
        text: str | None,
        created_by: int,
        attempt: int,
        process: Surroundings,
        saved: str | None = None,
        worker: str = "",
        began: float = 0.0,
    ) -> None:
        self.id = id
        self.type = type
        self._text = text
        self._data = _UNREAD
        self._saved = saved
        self.created_by = created_by
        self.attempt = attempt
        self._process = process
        #: The worker's id, under which the task is held.
        self.worker = worker
        #: True once this attempt's work is no longer wanted: somebody cancelled the task, its time is over, the worker
        #: stops, or it has lost its lease.
        self.cancelled = False
        # What follows is the worker's own: why it was cancelled, when it began (of time.perf_counter), its limit in
        # seconds, how to stop it, how far it is.
        self.why: Why | None = None
        self.began = began
        self.limit: float | None = None
        self.reins: Reins | None = None
        self.course: Course | None = None

    @property
    def text(self) -> str | None:
        """The task's data, as it stands in the row."""
        return self._text

    @property
    def data(self) -> Any:
        """The task's data, parsed; None where there is none. Raises ``ValueError`` where it is no JSON."""
        if self._data is _UNREAD:
            self._data = None if self._text is None else json.loads(self._text)
        return self._data

    @property
    def saved(self) -> Any:
        """The last checkpoint of an earlier attempt, to go on from; None where there is none."""
        return None if self._saved is None else json.loads(self._saved)

    @property
    def saved_text(self) -> str | None:
        """:attr:`saved`, as it stands in the row."""
        return self._saved

    @property
    def resumed(self) -> bool:
        """Is there a checkpoint to go on from?"""
        return self._saved is not None

    def progress(self, done: float, total: float, step: str | None = None) -> None:
        """Tell the readers how far the work is: ``done`` of ``total``, and in a few words what it is at.

        Cheap, and never waits: at most one report a second is sent, the latest; the last one (``done`` = ``total``) at
        once. Raises :class:`Cancelled` once the work is no longer wanted, and ``ValueError`` for what is no number.
        """
        if self.cancelled:
            raise Cancelled(self.why)
        self._process.progress(self, done, total, None if step is None else str(step))

    def checkpoint(self, value: Any) -> None:
        """Record ``value`` (anything JSON can say, 16 Mi characters at most), for the next attempt to go on from.

        Returns when it is durable; while Postgres is away it waits. Raises :class:`Cancelled` once the work is no longer
        wanted: where the row is still this attempt's, after recording. In an ``async def`` handler await
        :meth:`checkpoint_async` instead. Raises ``TypeError`` or ``ValueError`` for what JSON can't say.
        """
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("checkpoint() would block the event loop: await task.checkpoint_async(...) instead.")
        self._process.checkpoint(self, to_json(value))

    async def checkpoint_async(self, value: Any) -> None:
        """:meth:`checkpoint`, for an ``async def`` handler."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(_checkpoints(), self._process.checkpoint, self, to_json(value))

    def connect(self) -> AbstractContextManager[Connection]:
        """A database connection of the handler's own, with pgfleet's search_path; closed at the end of the block."""
        return self._process.connect()

    @property
    def export_dir(self) -> Path:
        """The volume that API and workers share."""
        return self._process.export_dir

    def __repr__(self) -> str:
        return f"<Task {self.id} {self.type} attempt {self.attempt}>"


@cache
def _checkpoints() -> Executor:
    """Where coroutines' checkpoints wait to be durable: not behind what handlers have the loop's own threads do."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(64, thread_name_prefix="checkpoint")


#: The longest result or checkpoint of a task, in characters.
MOST_TEXT = 16 * 1024 * 1024


def to_json(value: Any) -> str:
    """``value`` as the JSON that the table takes. Raises ``TypeError``, ``ValueError`` or ``RecursionError``."""
    text = storable(json.dumps(value, ensure_ascii=False, allow_nan=False))
    if len(text) > MOST_TEXT:
        raise ValueError(f"it has {len(text)} characters, and {MOST_TEXT} is the most: write it to a file")
    return text


def storable(text: str) -> str:
    """``text`` as Postgres can store it: no NUL, no lone surrogate."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")
