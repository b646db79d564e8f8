"""Tasks as a cluster scheduler shows them: with when each was last executed, and is to be next. For reading only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg.rows import dict_row
from psycopg.sql import SQL, Identifier

from pgfleet import db, sql
from pgfleet.errors import TaskNotFound
from pgfleet.tasks import Page

SORTABLE = ("id", "type", "status_rank", "next_execution", "last_execution", "failure_count")


def get(conn: db.Connection, id: int) -> dict[str, Any]:
    """As :func:`pgfleet.tasks.get`, with ``next_execution`` and ``last_execution``. Raises TaskNotFound."""
    with db.ours(), conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(sql.queries("cluster")["get"], {"id": id}).fetchone()
    if row is None:
        raise TaskNotFound(f"No task exists with ID: {id}")
    return row


def find(
    conn: db.Connection,
    *,
    status: Sequence[str] | None,
    type: Sequence[str] | None,
    offset: int,
    limit: int,
    sort: str,
    descending: bool,
    statuses: Sequence[str],
) -> Page:
    """One page of the rows of :func:`get` that match both filters; None: any.

    ``sort`` is one of :data:`SORTABLE`; what has no such value comes last. ``status_rank`` is the place in ``statuses``.
    """
    if sort not in SORTABLE:
        raise ValueError(f"can't sort by {sort!r}: expected one of {', '.join(SORTABLE)}")
    args = {
        "status": None if status is None else list(status),
        "type": None if type is None else list(type),
        "created_by": None,
        "parent": None,
        "statuses": list(statuses),
        "offset": offset,
        "limit": limit,
    }
    page = SQL(sql.queries("cluster")["list"]).format(
        sort=Identifier(sort), direction=SQL("desc" if descending else "asc")
    )
    with db.ours(), conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(page, args).fetchall()
    count = db.call(conn, sql.queries("tasks")["count"], **args).fetchone()
    return Page(rows, offset, count[0] if count else 0)
