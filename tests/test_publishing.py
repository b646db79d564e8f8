"""An export's file belongs to the attempt that wins: what another attempt published is withdrawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pgfleet import demo, tasks
from tests.support.database import Database
from tests.support.following import ended, result
from tests.support.processes import Processes
from tests.support.workers import attempting

Wait = Callable[..., Any]


def test_the_file_of_an_attempt_that_lost_its_task_is_withdrawn(
    database: Database, processes: Processes, wait_until: Wait, export_dir: Path
) -> None:
    conn, gate, thief = database.connect(), database.connect(autocommit=False), database.connect(autocommit=False)
    demo.install(conn)
    process = attempting(processes, "--types", "csv_export")
    gate.execute("lock table books")  # the export has begun and can't read
    id = tasks.create(conn, "csv_export", created_by=1)
    wait_until(lambda: tasks.get(conn, id)["status"] == "started")
    thief.execute("select from tasks where id = %s for update", (id,))
    gate.rollback()
    # Now the file stands under its final name, and its record waits for the row.
    waits = (
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
        " and application_name = 'pgfleet settle' and datname = current_database()"
    )
    wait_until(lambda: conn.execute(waits).fetchone() == (1,))
    (loser,) = [path.name for path in export_dir.glob("*.csv")]
    thief.execute(
        "select release_tasks((select worker from tasks where id = %s), array[%s::bigint], array[1])", (id, id)
    )
    thief.commit()
    row = wait_until(ended(conn, id))
    assert row["attempt"] == 2
    event = process.wait_for_event("file.withdrawn")
    assert (event["task"], event["attempt"], event["filename"]) == (id, 1, loser)
    (winner,) = [path.name for path in export_dir.glob("*.csv")]
    assert result(row)["filename"] == winner != loser
    assert conn.execute("select array_agg(filename) from exports").fetchone() == ([winner],)
    (lost,) = [event for event in process.events("task.lost") if event["outcome"] == "published"]
    assert (lost["task"], lost["type"], lost["attempt"]) == (id, "csv_export", 1)
