"""What goes wrong around a worker, one thing at a time; none of it may cost a task, a slot or the worker."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgfleet import tasks
from tests.support.database import Database
from tests.support.following import begun, ended, register
from tests.support.processes import Processes
from tests.support.workers import worker

Wait = Callable[..., Any]


def test_a_claim_whose_answer_was_lost_is_freed_although_its_worker_lives(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    process = worker(processes, "--types", "echo", settings=database.settings(lease=4.0, heartbeat=0.3))
    me = process.wait_for_event("worker.registered")["worker"]
    # As the server leaves it when the connection breaks between its commit and its answer.
    with conn.transaction():
        id, _ = tasks.insert(conn, "echo", created_by=1)
        conn.execute("select claim_tasks(%s, '{echo}', 1, ids => array[%s::bigint])", (me, id))
    row = wait_until(ended(conn, id))
    assert row["status"] == "success"
    assert row["failure_count"] == row["crash_count"] == 0


def test_a_claim_is_not_forgotten_when_the_next_one_of_the_same_turn_breaks_the_connection(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    here = database.settings(lease=60.0, heartbeat=0.3)
    worker(processes, "--types", "gated,echo", "--concurrency", "4", settings=here)
    for _ in range(20):  # from now on echo is known to be short, and claimed apart from what is not
        wait_until(ended(conn, tasks.create(conn, "echo", created_by=1)))
    conn.execute(
        """
        create sequence claims;
        create function break() returns trigger language plpgsql as $$
        begin
            if nextval('claims') = 1 then perform pg_terminate_backend(pg_backend_pid()); end if;
            return new;
        end $$;
        create trigger break before update on tasks for each row
            when (new.type = 'echo' and new.status = 'started') execute function break()
        """
    )
    # Unheard, so that both are found by one look: first what takes long, then what is short.
    gate = tmp_path / "gate"
    with conn.transaction():
        for type, data in (("gated", json.dumps({"gate": str(gate)})), ("echo", "1")):
            conn.execute("insert into tasks (type, data, created_by) values (%s, %s, 1)", (type, data))
    wait_until(lambda: conn.execute("select is_called from claims").fetchone() == (True,))
    wait_until(begun(gate))
    gate.touch()
    wait_until(lambda: tasks.find(conn, status=["success"]).total == 22)


def test_a_new_attempt_runs_although_a_zombie_of_the_same_task_runs_here(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    gate = tmp_path / "gate"
    zombie = worker(processes, "--types", "gated")
    id = tasks.create(conn, "gated", {"gate": str(gate)}, created_by=1)
    wait_until(begun(gate))
    zombie.signal(signal.SIGSTOP)
    worker(processes, "--types", "echo")  # rescues, but does not take it
    wait_until(lambda: tasks.get(conn, id)["status"] == "fresh")
    zombie.signal(signal.SIGCONT)
    wait_until(lambda: tasks.get(conn, id)["attempt"] == 2)
    gate.touch()
    row = wait_until(ended(conn, id))
    assert (row["status"], row["attempt"]) == ("success", 2)


@pytest.mark.parametrize("type", ["odd_error", "odd_delay", "huge", "deep"])
def test_an_outcome_that_can_not_be_recorded_fails_its_task_alone(
    database: Database, processes: Processes, wait_until: Wait, type: str
) -> None:
    conn = database.connect()
    worker(processes, "--types", f"{type},echo", "--concurrency", "1")
    bad = [tasks.create(conn, type, created_by=1) for _ in range(2)]
    good = tasks.create(conn, "echo", created_by=1)
    assert wait_until(ended(conn, good))["status"] == "success"
    for id in bad:
        assert wait_until(ended(conn, id))["status"] == "failure"


def test_an_export_for_an_owner_no_bigint_can_hold_fails_with_a_word(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    worker(processes, "--types", "csv_export")
    row = wait_until(ended(conn, tasks.create(conn, "csv_export", {"owner_id": 10**20}, created_by=1)))
    assert row["status"] == "failure"
    assert "owner_id" in row["error"]


def test_the_readers_do_not_learn_where_the_database_is(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    worker(processes, "--types", "away_once")
    row = wait_until(ended(conn, tasks.create(conn, "away_once", created_by=1)))
    assert (row["status"], row["attempt"], row["failure_count"], row["error"]) == ("success", 2, 0, None)


def test_a_backlog_of_short_tasks_does_not_keep_longer_ones_out(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    register(conn, "mostly_short", "echo_slowly")
    worker(processes, "--types", "mostly_short,echo_slowly", "--concurrency", "4")
    tasks.create_many(conn, "mostly_short", [None] * 40_000, created_by=0)
    wait_until(lambda: tasks.find(conn, type=["mostly_short"], status=["success"]).total > 2000)
    slow = tasks.create(conn, "echo_slowly", created_by=1)
    row = wait_until(ended(conn, slow))
    wait_until(lambda: tasks.find(conn, type=["mostly_short"], status=["success"]).total == 40_000, timeout=120)
    last = tasks.find(conn, type=["mostly_short"], sort="started_at", limit=1).rows[0]
    assert row["started_at"] < last["started_at"]


def test_all_of_a_bulk_starts_on_the_idle_workers_there_are(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    register(conn, "gated")
    for _ in range(3):
        worker(processes, "--types", "gated", "--concurrency", "40", settings=database.settings(poll=600))
    wait_until(lambda: conn.execute("select bool_and(sleeping) from workers").fetchone() == (True,))
    gate = tmp_path / "gate"
    tasks.create_many(conn, "gated", [{"gate": str(gate)}] * 120, created_by=1)
    wait_until(lambda: tasks.find(conn, status=["started"]).total == 120)
    gate.touch()
    wait_until(lambda: tasks.find(conn, status=["success"]).total == 120)


def test_sigterm_ends_a_worker_whose_database_hangs(database: Database, processes: Processes, wait_until: Wait) -> None:
    conn, blocker = database.connect(), database.connect(autocommit=False)
    here = database.settings(grace=0.2, database_timeout=0.5, poll=0.1)
    process = worker(processes, "--types", "echo", settings=here)
    blocker.execute("lock table tasks")
    wait_until(
        lambda: (
            conn.execute(
                "select count(*) > 0 from pg_stat_activity where wait_event_type = 'Lock'"
                " and application_name = 'pgfleet claim' and datname = current_database()"
            ).fetchone()
            == (True,)
        )
    )
    assert process.stop() == 1
    blocker.rollback()


def test_an_index_built_on_tasks_costs_no_worker_its_lease(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn, ddl = database.connect(), database.connect(autocommit=False)
    here = database.settings(lease=2.5, heartbeat=0.3)
    gone = worker(processes, "--types", "echo", settings=here)
    process = worker(processes, "--types", "echo", settings=here)
    gone.kill()
    wait_until(lambda: conn.execute("select count(*) from workers where lost_at is not null").fetchone() == (1,))
    ddl.execute("lock table tasks in share mode")
    # Two leases long, by the database's clock: the other worker's rescue of the lost one's tasks waits for the lock.
    conn.execute("select id from tasks limit 1")
    begun_at = conn.execute("select now()").fetchone()
    assert begun_at is not None
    wait_until(lambda: conn.execute("select now() - %s > interval '5 seconds'", begun_at).fetchone() == (True,))
    ddl.rollback()
    assert wait_until(ended(conn, tasks.create(conn, "echo", created_by=1)))["status"] == "success"
    assert process.events("worker.lost") == []


def test_a_reader_of_the_log_that_goes_away_costs_nothing(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    process = processes.run(
        "sh",
        "-c",
        f"{__import__('sys').executable} -m pgfleet.cli.main worker --handlers tests.support.handlers"
        " --types boom,echo 2>&1 | head -n 1",
    )
    wait_until(lambda: conn.execute("select count(*) from workers").fetchone() == (1,))
    for _ in range(3):
        wait_until(ended(conn, tasks.create(conn, "boom", created_by=1)))
    assert wait_until(ended(conn, tasks.create(conn, "echo", created_by=1)))["status"] == "success"
    process.kill()
