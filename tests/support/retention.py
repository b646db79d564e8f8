"""Words for tests of retention: tasks that have ended long ago, and a whole walk over them."""

from __future__ import annotations

from datetime import timedelta

from pgfleet import housekeeping
from tests.support.fleet import Connection

DAY = timedelta(days=1)
#: Keep whatever has ended for a day.
ALL = dict.fromkeys(housekeeping.FINISHED, DAY)


def age(conn: Connection, ids: list[int], days: float, parent: int | None = None) -> None:
    """Let these tasks have been made, and have ended, so many days ago; as parts of ``parent`` where it is given."""
    with conn.transaction():
        conn.execute("set local session_replication_role = replica")  # a past that no trigger comments on
        conn.execute(
            "update tasks set created_at = now() - %(age)s, updated_on = now() - %(age)s,"
            " parent = coalesce(%(parent)s, parent) where id = any(%(ids)s)",
            {"age": timedelta(days=days), "ids": ids, "parent": parent},
        )


def walk(conn: Connection, keep: dict[str, timedelta], quantity: int = 1000) -> list[housekeeping.Purged]:
    """All steps of one walk."""
    steps = [housekeeping.purge_step(conn, keep, quantity=quantity)]
    while (reached := steps[-1].reached) is not None:
        steps.append(housekeeping.purge_step(conn, keep, after=reached, quantity=quantity))
    return steps
