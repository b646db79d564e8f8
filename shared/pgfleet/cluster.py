"""Tasks and schedules as a cluster scheduler shows them: items of one list, each with when it was last executed and is next.

A schedule is an item that stands while its runs, which are tasks and items too, come and go. What workers keep in memory is
given to :func:`find` by the caller, who knows how to read it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from psycopg.rows import dict_row
from psycopg.sql import SQL, Identifier

from pgfleet import db, sql
from pgfleet.errors import TaskNotFound
from pgfleet.tasks import MAX_BIGINT, Page

#: ``nothing``: by kind (in memory, schedules, tasks), then name, then id.
SORTABLE = ("nothing", "type", "status_rank", "next_execution", "last_execution", "failure_count")


def get(conn: db.Connection, *, task: int | None = None, item: UUID | None = None) -> dict[str, Any]:
    """A task by its id, or a schedule by its UUID: a row as :func:`find` answers it. Raises TaskNotFound."""
    found = _items(conn, task=task, item=item).rows
    if not found:
        raise TaskNotFound(f"No task exists with ID: {item if task is None else task}")
    return found[0]


def find(
    conn: db.Connection,
    *,
    kept: Sequence[Mapping[str, Any]],
    status: Sequence[str] | None,
    type: Sequence[str] | None,
    offset: int,
    limit: int,
    sort: str,
    descending: bool,
    statuses: Sequence[str],
) -> Page:
    """One page of the items that match both filters; None: any. Statuses are those of tasks.

    ``kept``: what workers keep in memory, with ``name``, ``type``, ``status``, ``next_execution``, ``last_execution`` and
    ``failure_count``; of a row of kind ``memory`` only its place among them is told, as ``key``. ``sort`` is one of
    :data:`SORTABLE`; what has no such value comes last. ``status_rank`` is the place in ``statuses``.
    """
    return _items(
        conn,
        kept=kept,
        status=status,
        type=type,
        offset=offset,
        limit=limit,
        sort=sort,
        descending=descending,
        statuses=statuses,
    )


def retry_schedule(conn: db.Connection, name: str, *, reset_failure_count: bool = False) -> None:
    """Let a schedule that has ended badly, can't be fired or is disabled begin anew. Raises ScheduleNotFound or WrongState."""
    args = {"name": name, "reset_failure_count": reset_failure_count}
    db.call(conn, sql.queries("cluster")["retry_schedule"], **args)


def resume_schedule(conn: db.Connection, name: str) -> None:
    """Let the crashed run, with which a schedule has ended, go on. Raises ScheduleNotFound or WrongState."""
    db.call(conn, sql.queries("cluster")["resume_schedule"], name=name)


def configure_schedule(
    conn: db.Connection, name: str, *, max_retries: int | None = None, retry_delay: timedelta | None = None
) -> None:
    """Change the retry policy of a schedule's runs to come; None leaves a value as it is.

    Raises ScheduleNotFound or :class:`~pgfleet.errors.InvalidTask`.
    """
    args = {"name": name, "max_retries": max_retries, "retry_delay": retry_delay}
    db.call(conn, sql.queries("cluster")["configure_schedule"], **args)


def _items(
    conn: db.Connection,
    *,
    kept: Sequence[Mapping[str, Any]] = (),
    task: int | None = None,
    item: UUID | None = None,
    status: Sequence[str] | None = None,
    type: Sequence[str] | None = None,
    offset: int = 0,
    limit: int = 1,
    sort: str = "nothing",
    descending: bool = True,
    statuses: Sequence[str] = (),
) -> Page:
    if sort not in SORTABLE:
        raise ValueError(f"can't sort by {sort!r}: expected one of {', '.join(SORTABLE)}")
    args = {
        "kept": json.dumps([{**one, "kind": "memory", "id": place} for place, one in enumerate(kept)]),
        "task": task,
        "item": item,
        "status": None if status is None else list(status),
        "type": None if type is None else list(type),
        "offset": offset,
        "limit": limit,
        "reach": min(offset + limit, MAX_BIGINT),
        "plain": sort == "nothing",
        "judged": status is not None or sort == "status_rank",
        "statuses": list(statuses),
    }
    query = SQL(sql.queries("cluster")["items"]).format(
        sort=Identifier(sort), direction=SQL("desc" if descending else "asc")
    )
    with db.ours(), conn.cursor(row_factory=dict_row) as cursor:
        # Planned anew for each call: the plan that is right depends on which filters are given.
        rows = cursor.execute(query, args, prepare=False).fetchall()
    return Page([row for row in rows if row["kind"] is not None], offset, rows[0]["total"])
