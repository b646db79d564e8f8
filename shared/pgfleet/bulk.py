"""Many tasks of one type at once: by one statement, or, from :data:`COPIED` on, by COPY."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from psycopg.pq import PipelineStatus
from psycopg.rows import tuple_row

from pgfleet import db, sql
from pgfleet.creating import text_of

#: Tasks for which a COPY is worth its round trips. Postgres works on what has come while the rest is still being made here:
#: 10,000 take 60 instead of 85 ms, 2,000 as long either way, 1,000 12 instead of 10.
COPIED = 5_000


def create_many(
    conn: db.Connection,
    type: str,
    data: Iterable[Any],
    *,
    created_by: int,
    priority: int = 0,
    timeout: timedelta | None = None,
    node: str | None = None,
) -> list[int]:
    """Create many tasks of one type, all or none; answers their ids in the order of ``data``.

    Raises what :func:`pgfleet.tasks.create` raises.
    """
    items = data if isinstance(data, list) else list(data)
    shared = {"type": type, "created_by": created_by, "timeout": timeout, "node": node}
    with db.ours():
        if len(items) >= COPIED and conn.pgconn.pipeline_status == PipelineStatus.OFF:
            ids = _by_copy(conn, items, shared, priority)
            if ids is not None:
                return ids
        args = {**shared, "data": [text_of(item) for item in items], "priority": priority}
        with conn.cursor(binary=True, row_factory=tuple_row) as cursor:
            ((made,),) = cursor.execute(sql.queries("tasks")["create_tasks"], args)
    return list(made)


def _by_copy(conn: db.Connection, items: Sequence[Any], shared: dict[str, Any], priority: int) -> list[int] | None:
    """Their ids; None, and nothing done, where this role can't COPY into the table."""
    queries = sql.queries("tasks")
    with db.together(conn), conn.cursor(binary=True, row_factory=tuple_row) as cursor:
        ((ids,),) = cursor.execute(queries["reserve_tasks"], {**shared, "quantity": len(items)})
        if ids is None:
            return None
        rest = (shared["type"], shared["created_by"], priority, shared["timeout"], shared["node"])
        with cursor.copy(queries["copy_tasks"]) as copy:
            copy.set_types(["int8", "text", "text", "int8", "int4", "interval", "text"])
            for id, item in zip(ids, items, strict=True):
                copy.write_row((id, text_of(item), *rest))
        cursor.execute(queries["ring_bell"], {"ids": ids[:64]})  # enough to wake every worker
    return list(ids)
