"""Words for tests of retention: tasks that have ended long ago, and a whole walk over them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from pgfleet import housekeeping
from pgfleet.settings import Duration
from tests.support.database import Database
from tests.support.fleet import Connection
from tests.support.processes import Process, Processes
from tests.support.workers import worker

DAY = timedelta(days=1)
#: Keep whatever has ended for a day.
ALL = dict.fromkeys(housekeeping.FINISHED, DAY)
#: The settings of a worker that keeps successes for a day and all else for ever.
FOR_EVER = Duration(0)
KEEP = {
    "keep_success": Duration(86_400),
    "keep_failure": FOR_EVER,
    "keep_crashed": FOR_EVER,
    "keep_cancelled": FOR_EVER,
}


def keeping_a_day(
    processes: Processes, database: Database, export_dir: Path, /, *arguments: str, **more: Any
) -> Process:
    """Start such a worker; ``more`` are other settings."""
    here = database.settings(**{"export_dir": export_dir, **KEEP, **more})
    return worker(processes, "--types", "echo", *arguments, settings=here)


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
