"""Workers, as an operator sees them: who there is, and what each is told. See ``order_worker`` in ``sql/``."""

from __future__ import annotations

from typing import Any, Literal

from psycopg.rows import dict_row

from pgfleet import db, sql
from pgfleet.errors import UnknownWorker

STATUSES = ("live", "paused", "draining", "lost")
Orders = Literal["work", "pause", "drain"]


def list_workers(conn: db.Connection, id: str | None = None) -> list[dict[str, Any]]:
    """Every worker that is alive or was lost within the last hour, the oldest first.

    ``id``: only the worker of that id, or of that UUID under whatever nickname. ``status`` is ``live``, ``paused``,
    ``draining`` or ``lost``, ``orders`` what it was told, ``running`` how many tasks it holds, ``sleeping`` whether it
    needs waking for one.
    """
    with db.ours(), conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(sql.queries("workers")["list"], {"id": id}).fetchall()


def get(conn: db.Connection, id: str) -> dict[str, Any]:
    """The row of :func:`list_workers` for that id or UUID. Raises :class:`~pgfleet.errors.UnknownWorker`."""
    rows = list_workers(conn, id)
    if not rows:
        raise UnknownWorker(f"No worker exists with ID: {id}")
    return rows[0]


def order_worker(conn: db.Connection, worker: str, orders: Orders) -> None:
    """Tell a worker to ``pause`` (claim nothing more), to ``work`` again, or to ``drain`` (finish what it has, then end).

    From the commit on it claims nothing, or again; it hears of it at once. Raises
    :class:`~pgfleet.errors.UnknownWorker` or, for other words, :class:`~pgfleet.errors.InvalidTask`.
    """
    db.call(conn, sql.queries("workers")["order"], worker=worker, orders=orders)
