"""Tasks that come into being: one, some of all sorts, one for each node; and telling the workers of them.

The functions of :mod:`pgfleet.tasks` that make tasks; they stand there, too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pgfleet import db, prepared, sql

#: Kept: json.dumps() makes one anew for every call that asks for anything (2.2 instead of 1.4 us a task).
_ENCODER = json.JSONEncoder(ensure_ascii=False)
_ROWS = json.JSONEncoder(default=datetime.isoformat)


def text_of(data: Any) -> str | None:
    """What is stored of a task's ``data``: a text as it is, of all else its JSON."""
    return data if data is None or isinstance(data, str) else _ENCODER.encode(data)


def _arguments(
    type: str,
    data: Any,
    created_by: int,
    priority: int,
    run_at: datetime | None,
    delay: timedelta | None,
    max_retries: int | None,
    retry_delay: timedelta | None,
    unique_key: str | None,
    timeout: timedelta | None,
    node: str | None,
) -> dict[str, Any]:
    return {
        "type": type,
        "data": text_of(data),
        "created_by": created_by,
        "priority": priority,
        "run_at": run_at,
        "delay": delay,
        "max_retries": max_retries,
        "retry_delay": retry_delay,
        "unique_key": unique_key,
        "timeout": timeout,
        "node": node,
    }


def create(
    conn: db.Connection,
    type: str,
    data: Any = None,
    *,
    created_by: int,
    priority: int = 0,
    run_at: datetime | None = None,
    delay: timedelta | None = None,
    max_retries: int | None = None,
    retry_delay: timedelta | None = None,
    unique_key: str | None = None,
    timeout: timedelta | None = None,
    node: str | None = None,
) -> int:
    """Create one task inside the caller's transaction and wake the fleet with its commit; answers the id.

    ``data`` is stored as it is when it is a text, as its JSON otherwise. With ``unique_key``, the id of an unfinished
    task of the same type and key is answered instead. ``timeout`` ends each attempt (None: the type's), ``node`` is the
    only server whose workers may take it. Raises :class:`~pgfleet.errors.UnknownType` or
    :class:`~pgfleet.errors.InvalidTask`.
    """
    args = _arguments(
        type, data, created_by, priority, run_at, delay, max_retries, retry_delay, unique_key, timeout, node
    )
    row = db.call(conn, sql.queries("tasks")["create_task"], **args).fetchone()
    assert row is not None  # noqa: S101 - a function always answers one row
    return int(row[0])


def insert(
    conn: db.Connection,
    type: str,
    data: Any = None,
    *,
    created_by: int,
    priority: int = 0,
    run_at: datetime | None = None,
    delay: timedelta | None = None,
    max_retries: int | None = None,
    retry_delay: timedelta | None = None,
    unique_key: str | None = None,
    timeout: timedelta | None = None,
    node: str | None = None,
) -> tuple[int, bool]:
    """As :func:`create`, but tells nobody: call :func:`notify` after the commit. Answers (id, was it created?)."""
    args = _arguments(
        type, data, created_by, priority, run_at, delay, max_retries, retry_delay, unique_key, timeout, node
    )
    row = db.call(conn, sql.queries("tasks")["insert_task"], **args).fetchone()
    assert row is not None  # noqa: S101 - a function always answers one row
    return int(row[0]), bool(row[1])


@dataclass(frozen=True)
class Wanted:
    """One task for :class:`Sent`, in the name of a user; ``data`` is the text to store, durations are seconds."""

    type: str
    data: str | None
    created_by: int
    any_type: bool = False
    priority: int = 0
    run_at: datetime | None = None
    delay: float | None = None
    max_retries: int | None = None
    retry_delay: float | None = None
    unique_key: str | None = None
    timeout: float | None = None
    node: str | None = None


@dataclass(frozen=True)
class Inserted:
    """What :class:`Sent` did: for each task, in their order, (id, was it created?), or None if passed over.

    ``sleepers``: how many workers slept and were told; None where nobody was to be told, or of nothing.
    """

    answers: list[tuple[int, bool] | None]
    sleepers: int | None


class Sent:
    """As :func:`insert`, for many tasks of all sorts in one statement: all of them are inserted, or none.

    A task is passed over where its type is unknown or, unless ``any_type``, not marked for readers. ``tell``: commit, and
    wake the sleeping workers; not inside a transaction. It is sent at once, over ``conn``, which is for nothing else
    meanwhile; what came of it, a failure to send included, is for :meth:`inserted` to say, in any thread.
    """

    def __init__(self, conn: db.Patient, wanted: Sequence[Wanted], *, tell: bool = False) -> None:
        self.conn = conn
        self._size = len(wanted)
        self._error: Exception | None = None
        rows = [{"n": n} | {k: v for k, v in vars(task).items() if v is not None} for n, task in enumerate(wanted)]
        try:
            self._statement = prepared.kept(conn, "insert_allowed_tasks", sql.queries("tasks")["insert_allowed_tasks"])
            self._statement.send(_ROWS.encode(rows).encode(), b"t" if tell else b"f")
        except Exception as error:
            self._error = error

    def inserted(self) -> Inserted:
        """Wait for the answer. Raises what :func:`insert` raises for any of the tasks, but for an unknown type."""
        with db.ours():
            if self._error is not None:
                raise self._error
            ((numbers, ids, created, sleepers),) = self._statement.rows(tuple)
        answers: list[tuple[int, bool] | None] = [None] * self._size
        for made in zip(numbers or (), ids or (), created or (), strict=True):
            answers[made[0]] = made[1:]
        return Inserted(answers, sleepers)


def create_for_all_nodes(
    conn: db.Connection,
    type: str,
    data: Any = None,
    *,
    created_by: int,
    priority: int = 0,
    max_retries: int | None = None,
    retry_delay: timedelta | None = None,
    timeout: timedelta | None = None,
) -> int:
    """Create one part for each node that has a live worker of ``type`` now; answers the id of their parent.

    The parent ends with the last of its parts, and its result says what became of each. Raises
    :class:`~pgfleet.errors.UnknownType` or, where no live worker serves the type, :class:`~pgfleet.errors.InvalidTask`.
    """
    row = db.call(
        conn,
        sql.queries("tasks")["create_for_all_nodes"],
        type=type,
        data=text_of(data),
        created_by=created_by,
        priority=priority,
        max_retries=max_retries,
        retry_delay=retry_delay,
        timeout=timeout,
    ).fetchone()
    assert row is not None  # noqa: S101 - a function always answers one row
    return int(row[0])


def notify(conn: db.Connection, ids: Sequence[int]) -> int:
    """Wake the sleeping workers for tasks that were inserted and committed; spared while none sleeps.

    Answers how many sleep: each of them hears every notification, so with many of them send fewer, with more ids.
    """
    row = db.call(conn, sql.queries("tasks")["notify_tasks"], ids=list(ids)).fetchone()
    return int(row[0]) if row else 0
