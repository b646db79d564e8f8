"""An export whose worker is killed or stopped half-way: its debris is swept, and it never harms the one that took over."""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pgfleet import demo, housekeeping, sql, tasks, volume
from tests.support.database import Database
from tests.support.fleet import Connection, column, value
from tests.support.following import ended
from tests.support.processes import Processes
from tests.support.volumes import marked, written
from tests.support.workers import worker

Wait = Callable[..., Any]


@pytest.fixture
def conn(database: Database, export_dir: Path) -> Connection:
    conn = database.connect()
    conn.execute(sql.text("demo/library.sql"))
    demo.install(conn)
    marked(conn, export_dir)
    return conn


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP"])
def test_what_a_worker_leaves_half_written_is_swept_and_the_one_that_takes_over_is_not_touched(
    conn: Connection, database: Database, processes: Processes, export_dir: Path, wait_until: Wait, how: str
) -> None:
    def halves() -> set[tuple[int, int] | None]:
        return {volume.parse_temporary_name(path.name) for path in export_dir.glob(".export_*")}

    def swept() -> list[str]:
        for path in export_dir.glob("*export_*"):
            written(path, 5)  # long ago: only whose they are decides
        return [file.name for step in housekeeping.sweep(conn, export_dir) for file in step.files]

    gate = database.connect(autocommit=False)
    gate.execute("lock table books in access exclusive mode")  # an export opens its file, then waits for its rows
    loser = worker(processes, "--types", "csv_export")
    id = tasks.create(conn, "csv_export", created_by=1)
    wait_until(lambda: halves() == {(id, 1)})
    if how == "SIGKILL":
        loser.kill()
    else:
        loser.signal(signal.SIGSTOP)
    winner = worker(processes, "--types", "csv_export")
    wait_until(lambda: halves() == {(id, 1), (id, 2)})
    assert [volume.parse_temporary_name(name) for name in swept()] == [(id, 1)]
    gate.rollback()
    row = wait_until(ended(conn, id))
    assert (row["status"], row["attempt"]) == ("success", 2)
    winner.wait_for_event("task.published")
    if how == "SIGSTOP":
        loser.signal(signal.SIGCONT)
        loser.wait_for_event("worker.lost")
        assert loser.stop(30) in (0, 1)
    assert tasks.get(conn, id) == row
    assert swept() == []
    (file,) = export_dir.glob("*export_*")
    result = json.loads(row["result"])
    assert file.name == result["filename"]
    assert hashlib.sha256(file.read_bytes()).hexdigest() == result["sha256"]
    assert column(conn, "select filename from exports") == [file.name]


def test_the_file_of_an_export_that_waits_for_postgres_is_not_swept_before_it_is_recorded(
    conn: Connection, database: Database, processes: Processes, export_dir: Path, wait_until: Wait
) -> None:
    """Under its final name, and its row can't be written yet: for however long."""
    gate = database.connect(autocommit=False)
    gate.execute("lock table exports in share row exclusive mode")
    worker(processes, "--types", "csv_export")
    id = tasks.create(conn, "csv_export", created_by=1)
    wait_until(lambda: list(export_dir.glob("*.csv")) != [])
    (file,) = export_dir.glob("*.csv")
    assert value(conn, "select status from tasks where id = %s", id) == "started"
    # Its age would not save it.
    slack = timedelta(seconds=0.05)
    wait_until(lambda: time.time() - file.stat().st_mtime > 0.1)
    assert [step.files for step in housekeeping.sweep(conn, export_dir, slack=slack)] == [[]]
    gate.rollback()
    assert wait_until(ended(conn, id))["status"] == "success"
    assert [step.files for step in housekeeping.sweep(conn, export_dir, slack=slack)] == [[]]
    conn.execute("delete from exports")
    swept = [file.name for step in housekeeping.sweep(conn, export_dir, slack=slack) for file in step.files]
    assert swept == [file.name]
