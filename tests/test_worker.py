"""The worker as a process: what it takes, what it leaves, what it records."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from psycopg.sql import SQL, Identifier

from pgfleet import tasks
from tests.support.database import Database
from tests.support.following import begun, ended, register
from tests.support.processes import Processes
from tests.support.workers import HANDLERS, sleeping, worker

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"

Wait = Callable[..., Any]


def test_a_task_is_stamped_with_the_workers_nickname_and_uuid(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    worker(processes, "--nickname", "alpha", "--types", "echo")
    id = tasks.create(conn, "echo", {"titre": "Les Misérables 📚"}, created_by=7)
    row = wait_until(ended(conn, id))
    assert row["status"] == "success"
    assert re.fullmatch(rf"alpha:{UUID}", row["worker"])
    assert row["updated_on"] >= row["started_at"] >= row["created_at"]
    assert json.loads(row["result"]) == {"data": {"titre": "Les Misérables 📚"}, "attempt": 1, "created_by": 7}


def test_without_a_nickname_the_worker_is_its_bare_uuid(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    worker(processes, "--types", "echo")
    row = wait_until(ended(conn, tasks.create(conn, "echo", created_by=1)))
    assert re.fullmatch(UUID, row["worker"])


def test_a_worker_that_takes_exports_says_at_its_start_where_their_volume_is_missing(
    database: Database, processes: Processes, tmp_path: Path
) -> None:
    missing = tmp_path / "not" / "mounted"
    there = database.settings(export_dir=tmp_path)
    assert not worker(processes, "--types", "csv_export", settings=there).events("volume.missing")
    here = database.settings(export_dir=missing)
    warned = worker(processes, "--types", "csv_export", settings=here).events("volume.missing")
    assert [event["folder"] for event in warned] == [str(missing)]
    assert not worker(processes, "--types", "echo", settings=here).events("volume.missing")


def test_a_starting_worker_drains_the_backlog(database: Database, processes: Processes, wait_until: Wait) -> None:
    conn = database.connect()
    register(conn, "echo", "echo_async")
    plain = tasks.create_many(conn, "echo", range(300), created_by=1)
    coroutines = tasks.create_many(conn, "echo_async", range(300), created_by=1)
    worker(processes)
    wait_until(lambda: tasks.find(conn, status=["success"]).total == 600)
    for id, data in [*zip(plain, range(300), strict=True), *zip(coroutines, range(300), strict=True)]:
        assert json.loads(tasks.get(conn, id)["result"])["data"] == data


def test_every_task_of_a_burst_of_notifications_is_done(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    worker(processes, "--types", "echo", "--concurrency", "3", settings=database.settings(poll=600))
    ids = [tasks.create(conn, "echo", n, created_by=1) for n in range(200)]
    wait_until(lambda: tasks.find(conn, status=["success"]).total == len(ids))


def test_two_workers_share_the_work_and_run_each_task_once(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    register(conn, "marks")
    file = tmp_path / "marks"
    ids = tasks.create_many(conn, "marks", [{"file": str(file)}] * 2000, created_by=1)
    for _ in range(2):
        processes.worker(*HANDLERS, "--types", "marks", "--concurrency", "4")
    wait_until(lambda: tasks.find(conn, status=["success"]).total == len(ids))
    lines = [line.split() for line in file.read_text().splitlines()]
    assert sorted(int(id) for id, _, _ in lines) == ids


def test_what_a_handler_raises_fails_the_task_and_not_the_worker(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    worker(processes, "--types", "boom,exits,unsayable,echo")
    failed = {name: tasks.create(conn, name, created_by=1) for name in ("boom", "exits", "unsayable")}
    for name, id in failed.items():
        row = wait_until(ended(conn, id))
        assert (name, row["status"], row["failure_count"]) == (name, "failure", 1)
        assert row["updated_on"] is not None
        assert "secret" not in row["error"]
    assert "ValueError: secret of None" in tasks.get(conn, failed["boom"])["error_detail"]
    assert "Traceback" in tasks.get(conn, failed["boom"])["error_detail"]
    assert "can't be told in JSON" in tasks.get(conn, failed["unsayable"])["error_detail"]
    assert wait_until(ended(conn, tasks.create(conn, "echo", created_by=1)))["status"] == "success"


def test_an_exit_within_an_async_handler_fails_its_task_and_leaves_the_others_running(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    worker(processes, "--types", "exits_within_async,gated_async")
    gate = tmp_path / "gate"
    other = tasks.create(conn, "gated_async", {"gate": str(gate)}, created_by=1)
    wait_until(begun(gate))
    for _ in range(2):
        row = wait_until(ended(conn, tasks.create(conn, "exits_within_async", created_by=1)))
        assert row["status"] == "failure"
        assert "SystemExit: 3" in row["error_detail"]
    gate.touch()
    row = wait_until(ended(conn, other))
    assert (row["status"], row["attempt"]) == ("success", 1)


def test_a_failing_task_is_tried_again_as_often_as_it_may(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    worker(processes, "--types", "boom,again_soon,gives_up")
    from datetime import timedelta

    boom = tasks.create(conn, "boom", created_by=1, max_retries=2, retry_delay=timedelta(milliseconds=20))
    again = tasks.create(conn, "again_soon", created_by=1)
    hopeless = tasks.create(conn, "gives_up", created_by=1)
    row = wait_until(ended(conn, boom))
    assert (row["status"], row["attempt"], row["failure_count"]) == ("failure", 3, 3)
    row = wait_until(ended(conn, again))
    assert (row["status"], row["attempt"], row["failure_count"]) == ("success", 3, 2)
    row = wait_until(ended(conn, hopeless))
    assert (row["status"], row["attempt"]) == ("failure", 1)
    assert row["error"] == "The ISBN 123 does not exist."


def test_a_retried_task_is_done_again(database: Database, processes: Processes, wait_until: Wait) -> None:
    conn = database.connect()
    worker(processes, "--types", "boom", settings=database.settings(poll=600))
    id = tasks.create(conn, "boom", created_by=1)
    wait_until(ended(conn, id))
    tasks.retry(conn, id)
    row = wait_until(lambda: (r := tasks.get(conn, id))["attempt"] == 2 and r["status"] == "failure" and r)
    assert row["failure_count"] == 2


def test_types_that_nobody_here_serves_are_left_alone(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    register(conn, "boom", "echo", "from_elsewhere")
    theirs = [tasks.create(conn, name, created_by=1) for name in ("boom", "from_elsewhere")]
    worker(processes, "--types", "echo")
    wait_until(ended(conn, tasks.create(conn, "echo", created_by=1)))
    for id in theirs:
        row = tasks.get(conn, id)
        assert (row["status"], row["attempt"], row["worker"]) == ("fresh", 0, None)


def test_more_urgent_tasks_go_first_then_older_ones(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    register(conn, "marks", "gated")
    file, gate = tmp_path / "order", tmp_path / "gate"
    tasks.create(conn, "gated", {"gate": str(gate)}, created_by=1, priority=99)
    ids = {
        (priority, n): tasks.create(conn, "marks", {"file": str(file)}, created_by=1, priority=priority)
        for n in range(3)
        for priority in (0, 5, -5)
    }
    worker(processes, "--types", "marks,gated", "--concurrency", "1")
    wait_until(begun(gate))
    gate.touch()
    wait_until(lambda: tasks.find(conn, type=["marks"], status=["success"]).total == len(ids))
    order = [int(line.split()[0]) for line in file.read_text().splitlines()]
    assert order == [ids[priority, n] for priority in (5, 0, -5) for n in range(3)]


def test_less_urgent_tasks_that_are_heard_of_go_before_none_that_is_more_urgent(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    worker(processes, "--types", "gated", settings=database.settings(poll=600))  # sleeps: so all are notified
    worker(processes, "--types", "lasts,echo", "--concurrency", "1")
    wait_until(sleeping(conn))
    for _ in range(12):
        tasks.create(conn, "lasts", created_by=1, priority=10)
    created = 0

    def all_urgent_ended() -> bool:
        nonlocal created
        tasks.create(conn, "echo", created_by=1)
        created += 1
        return bool(tasks.find(conn, type=["lasts"], status=["success"]).total == 12)

    wait_until(all_urgent_ended)
    wait_until(lambda: tasks.find(conn, type=["echo"], status=["success"]).total == created)
    order = [type for (type,) in conn.execute("select type from tasks order by started_at, id").fetchall()]
    assert order == ["lasts"] * 12 + ["echo"] * created


def test_of_a_long_error_only_the_ends_are_kept(database: Database, processes: Processes, wait_until: Wait) -> None:
    conn = database.connect()
    worker(processes, "--types", "raises_much")
    row = wait_until(ended(conn, tasks.create(conn, "raises_much", {"for": "reader"}, created_by=1)))
    assert re.fullmatch(r"<é{1999} \[\.\.\. 1996002 characters left out \.\.\.\] é{1999}>", row["error"])
    row = wait_until(ended(conn, tasks.create(conn, "raises_much", {"for": "operators"}, created_by=1)))
    assert row["error"] == "The task failed; its operators see why."
    assert row["error_detail"].startswith("Traceback (most recent call last)")
    assert row["error_detail"].endswith("é>\n")
    assert len(row["error_detail"]) < 65_000


def test_a_delayed_task_starts_when_it_is_due_without_a_poll(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    from datetime import timedelta

    conn = database.connect()
    worker(processes, "--types", "echo", settings=database.settings(poll=600))
    id = tasks.create(conn, "echo", created_by=1, delay=timedelta(seconds=0.7))
    assert tasks.get(conn, id)["status"] == "waiting"
    row = wait_until(ended(conn, id))
    assert (row["started_at"] - row["created_at"]).total_seconds() >= 0.7


def test_a_handler_may_use_a_connection_of_its_own(database: Database, processes: Processes, wait_until: Wait) -> None:
    conn = database.connect()
    worker(processes, "--types", "asks")
    row = wait_until(ended(conn, tasks.create(conn, "asks", created_by=1)))
    assert json.loads(row["result"]) == {"tasks": 1, "search_path": "public"}


def test_a_worker_that_only_polls_finds_its_tasks(database: Database, processes: Processes, wait_until: Wait) -> None:
    conn = database.connect()
    process = worker(processes, "--types", "echo", "--no-listen")
    assert wait_until(ended(conn, tasks.create(conn, "echo", created_by=1)))["status"] == "success"
    listening = conn.execute(
        "select count(*) from pg_stat_activity"
        " where application_name = 'pgfleet listen' and datname = current_database()"
    ).fetchone()
    assert listening == (0,)
    assert process.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--types", "nonsense"), "No handler loaded serves nonsense."),
        (("--handlers", "no.such.module"), "can't be imported"),
        (("--handlers", "json"), "holds no handler"),
    ],
)
def test_a_worker_that_can_not_do_its_work_says_why_and_does_not_start(
    processes: Processes, arguments: tuple[str, ...], said: str
) -> None:
    process = processes.worker(*arguments)
    assert process.wait() == 1
    assert said in process.text()
    assert "Traceback" not in process.text()


def test_a_worker_refuses_a_schema_that_is_not_migrated(processes: Processes, empty_database: Database) -> None:
    process = processes.worker(settings=empty_database.settings())
    assert process.wait() == 1
    assert "pgfleet migrate" in process.text()


def test_a_worker_that_starts_beside_a_standby_waits_until_it_may_write(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    name = Identifier(conn.info.dbname)
    conn.execute(SQL("alter database {} set default_transaction_read_only = on").format(name))
    process = processes.worker("--types", "csv_export")
    assert "read-only" in process.wait_for_event("database.refused")["error"]
    conn.execute(SQL("alter database {} reset default_transaction_read_only").format(name))
    process.wait_for_event("worker.registered")
