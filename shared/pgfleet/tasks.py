"""Tasks, as Python sees them: create, read, retry, cancel. Each function is one call of one function in ``sql/``.

Every function takes a connection (see :func:`pgfleet.db.connect`) and runs in its transaction; with autocommit, each
call is a transaction of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from psycopg.rows import dict_row
from psycopg.sql import SQL, Identifier

from pgfleet import db, sql
from pgfleet.bulk import create_many as create_many
from pgfleet.creating import Sent as Sent
from pgfleet.creating import Wanted as Wanted
from pgfleet.creating import create as create
from pgfleet.creating import create_for_all_nodes as create_for_all_nodes
from pgfleet.creating import insert as insert
from pgfleet.creating import notify as notify
from pgfleet.errors import TaskNotFound

STATUSES = ("waiting", "fresh", "started", "success", "failure", "crashed", "cancelled")
#: What may still run; the others have ended, until somebody retries or resumes them.
UNFINISHED = ("waiting", "fresh", "started")
SORTABLE = ("id", "type", "status", "priority", "created_at", "updated_on", "started_at", "run_at", "attempt")
#: Who holds the parent of a task for all nodes while it is started.
ALL_NODES = "all nodes"
MAX_BIGINT = 9_223_372_036_854_775_807


@dataclass(frozen=True)
class Page:
    """One page of a list, and how many rows there are in all."""

    rows: list[dict[str, Any]]
    offset: int
    total: int


def get(conn: db.Connection, id: int) -> dict[str, Any]:
    """The task's row. Raises :class:`~pgfleet.errors.TaskNotFound`."""
    with db.ours(), conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(sql.queries("tasks")["get"], {"id": id}).fetchone()
    if row is None:
        raise TaskNotFound(f"No task exists with ID: {id}")
    return row


def states(conn: db.Connection, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """How these tasks stand, by id: status, attempt, progress; cheap, for whoever polls. Unknown ids are left out."""
    with db.ours(), conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(sql.queries("tasks")["states"], {"ids": list(ids)}).fetchall()
    return {row["id"]: row for row in rows}


def unclaimed(conn: db.Connection, ids: Sequence[int]) -> list[int] | None:
    """Those of ``ids`` that wait or are ready, in any order; cheap, as :func:`states`.

    None where ``pgfleet.notify`` is ``always``: some listener wants to hear of all, claimed or not.
    """
    row = db.call(conn, sql.queries("tasks")["unclaimed"], ids=list(ids)).fetchone()
    return row[0] if row else []


def unfinished(conn: db.Connection, types: Sequence[str], limit: int) -> list[int]:
    """The ids of the tasks of these types that have not ended, at most ``limit``."""
    return [row[0] for row in db.call(conn, sql.queries("tasks")["unfinished"], types=list(types), limit=limit)]


def executions(conn: db.Connection, id: int, *, offset: int = 0, limit: int = 50) -> Page:
    """One page of the attempts at a task, the latest first; empty for a task that never started, or doesn't exist.

    ``status`` is the row's for the current attempt, else how the attempt ended: failure, released (given back without
    blame), lost (its worker was), crashed or cancelled. ``node`` is None where the worker's own record is gone.
    """
    q, args = sql.queries("tasks"), {"id": id, "offset": offset, "limit": limit}
    with db.ours(), conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(q["executions"], args).fetchall()
    count = db.call(conn, q["count_executions"], id=id).fetchone()
    return Page(rows, offset, count[0] if count else 0)


def find(
    conn: db.Connection,
    *,
    created_by: int | None = None,
    status: Sequence[str] | None = None,
    type: Sequence[str] | None = None,
    parent: int | None = None,
    offset: int = 0,
    limit: int = 50,
    sort: str = "id",
    descending: bool = True,
) -> Page:
    """One page of the tasks that match all filters given; ``sort`` is one of :data:`SORTABLE`.

    ``parent``: only the parts of the task that was made for all nodes.
    """
    if sort not in SORTABLE:
        raise ValueError(f"can't sort by {sort!r}: expected one of {', '.join(SORTABLE)}")
    q = sql.queries("tasks")
    args = {
        "created_by": created_by,
        "status": list(status) if status else None,
        "type": list(type) if type else None,
        "parent": parent,
        "offset": offset,
        "limit": limit,
    }
    page = SQL(q["list"]).format(sort=Identifier("t", sort), direction=SQL("desc" if descending else "asc"))
    with db.ours(), conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(page, args).fetchall()
    count = db.call(conn, q["count"], **args).fetchone()
    return Page(rows, offset, count[0] if count else 0)


def retry(conn: db.Connection, id: int, *, reset_failure_count: bool = False) -> None:
    """Make a failed, crashed or cancelled task ready again. Raises TaskNotFound or WrongState."""
    db.call(conn, sql.queries("tasks")["retry"], id=id, reset_failure_count=reset_failure_count)


def resume(conn: db.Connection, id: int) -> None:
    """Make a crashed task ready again. Raises TaskNotFound or WrongState."""
    db.call(conn, sql.queries("tasks")["resume"], id=id)


def cancel(conn: db.Connection, id: int) -> str:
    """Call off an unfinished task. Raises TaskNotFound or WrongState.

    Answers ``cancelled``; or ``started``, where a worker is at it: that has been told, and the task is cancelled once
    the work has stopped.
    """
    row = db.call(conn, sql.queries("tasks")["cancel"], id=id).fetchone()
    assert row is not None  # noqa: S101 - a function always answers one row
    return str(row[0])


def configure(
    conn: db.Connection, id: int, *, max_retries: int | None = None, retry_delay: timedelta | None = None
) -> None:
    """Change a task's retry policy; None leaves a value as it is. Raises TaskNotFound, WrongState or InvalidTask."""
    db.call(conn, sql.queries("tasks")["configure"], id=id, max_retries=max_retries, retry_delay=retry_delay)


def configure_type(
    conn: db.Connection,
    name: str,
    *,
    max_running: int | None = None,
    timeout: timedelta | None = None,
    max_retries: int | None = None,
    retry_delay: timedelta | None = None,
    max_retry_delay: timedelta | None = None,
    max_crashes: int | None = None,
) -> None:
    """Change what holds for a type's tasks; None leaves a value as it is, ``max_running=0`` and a zero ``timeout`` mean none.

    What runs already is counted. Raises :class:`~pgfleet.errors.UnknownType` or :class:`~pgfleet.errors.InvalidTask`.
    """
    db.call(
        conn,
        sql.queries("tasks")["configure_type"],
        name=name,
        max_running=max_running,
        timeout=timeout,
        max_retries=max_retries,
        retry_delay=retry_delay,
        max_retry_delay=max_retry_delay,
        max_crashes=max_crashes,
    )


def types(conn: db.Connection, *, running: bool = False) -> list[dict[str, Any]]:
    """The task types the fleet knows, by name; where asked, with how many tasks of each are ``running``."""
    q = sql.queries("tasks")
    with db.ours(), conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(q["types"]).fetchall()
    if not running:
        return rows
    counts = dict(db.call(conn, q["running"]).fetchall())
    return [{**row, "running": counts.get(row["name"], 0)} for row in rows]
