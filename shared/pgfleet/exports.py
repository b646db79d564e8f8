"""The exports a reader can download: a row here means that its file stands on the volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg.rows import dict_row

from pgfleet import db, sql


def of_owner(conn: db.Connection, owner_id: int) -> list[dict[str, Any]]:
    """A reader's exports, newest first."""
    with db.ours(), conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(sql.queries("exports")["of_owner"], {"owner_id": owner_id}).fetchall()


def by_filename(conn: db.Connection, filename: str) -> dict[str, Any] | None:
    """The export of that file name, whoever owns it; None where there is none."""
    with db.ours(), conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(sql.queries("exports")["by_filename"], {"filename": filename}).fetchone()


def version_of_owner(conn: db.Connection, owner_id: int) -> str:
    """A short text that changes whenever the list :func:`of_owner` gives does; for ETags."""
    row = db.call(conn, sql.queries("exports")["latest_of_owner"], owner_id=owner_id).fetchone()
    assert row is not None  # noqa: S101 - an aggregate always answers one row
    return f"{row[0]}-{row[1] or 0}-{row[2] or 0}"


def version(rows: Sequence[dict[str, Any]]) -> str:
    """The same, of the rows themselves."""
    ids = [row["id"] for row in rows]
    return f"{len(ids)}-{max(ids, default=0)}-{sum(ids)}"
