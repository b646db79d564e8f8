"""No task is left unseen: whoever created it, whenever it was committed, whoever heard of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pgfleet import tasks
from pgfleet_worker.rest import BUSY
from tests.support.database import Database
from tests.support.following import begun, ended, register, statuses
from tests.support.processes import Processes
from tests.support.workers import sleeping, worker

Wait = Callable[..., Any]


def test_a_task_whose_creator_died_before_the_notify_is_found_by_the_poll(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    worker(processes, "--types", "echo", settings=database.settings(poll=0.3))
    wait_until(sleeping(conn))
    api = database.connect()
    id, _ = tasks.insert(api, "echo", created_by=1)
    api.close()
    assert wait_until(ended(conn, id))["status"] == "success"


def test_a_lone_task_after_a_pause_does_not_make_its_worker_say_that_it_is_awake(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    conn.execute("create table said (n integer generated always as identity, sleeping boolean)")
    conn.execute(
        "create function note() returns trigger language plpgsql as"
        " 'begin insert into public.said (sleeping) values (new.sleeping); return null; end'"
    )
    conn.execute("create trigger note after update of sleeping on workers for each row execute function note()")
    said = "select array_agg(sleeping order by n) from said"
    worker(processes, "--types", "echo", settings=database.settings(poll=600))
    wait_until(lambda: conn.execute(said).fetchone() == ([False, True],))  # its start; its row alone says asleep before
    for n in range(3):
        time.sleep(2 * BUSY)  # the condition itself: quiet for longer than this, which no event marks the end of
        wait_until(ended(conn, tasks.create(conn, "echo", n, created_by=1)))
    # What it said on account of one task it said before it claimed the next, over the same connection.
    assert conn.execute(said).fetchone() == ([False, True],)


def test_a_task_created_unheard_in_an_open_transaction_is_seen_before_the_worker_sleeps(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn, foreign, ear = database.connect(), database.connect(autocommit=False), database.connect()
    gate = tmp_path / "gate"
    worker(processes, "--types", "gated,echo", "--concurrency", "1", settings=database.settings(poll=600))
    tasks.create(conn, "gated", {"gate": str(gate)}, created_by=1)
    wait_until(begun(gate))
    wait_until(lambda: not sleeping(conn)())
    ear.execute("listen task_created")
    unheard = tasks.create(foreign, "echo", created_by=1)
    gate.touch()
    wait_until(sleeping(conn))  # it says so, and goes on looking until the foreign transaction has ended
    foreign.commit()
    assert wait_until(ended(conn, unheard))["status"] == "success"
    assert [note.payload for note in ear.notifies(timeout=0)] == []


def test_an_insert_that_commits_late_is_done_although_the_watermark_has_passed_it(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn, late = database.connect(), database.connect(autocommit=False)
    worker(processes, "--types", "echo", settings=database.settings(poll=600))
    wait_until(sleeping(conn))
    early = tasks.create(late, "echo", created_by=1)
    for n in range(20):
        wait_until(ended(conn, tasks.create(conn, "echo", n, created_by=1)))
    late.commit()
    assert wait_until(ended(conn, early))["status"] == "success"


def test_a_bulk_larger_than_its_notifications_is_done_without_a_poll(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    for _ in range(2):
        worker(processes, "--types", "echo", "--concurrency", "2", settings=database.settings(poll=600))
    wait_until(sleeping(conn))
    tasks.create_many(conn, "echo", range(1500), created_by=1)
    wait_until(lambda: tasks.find(conn, status=["success"]).total == 1500)


def test_short_tasks_claimed_ahead_do_not_wait_behind_a_long_one_while_another_worker_idles(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    register(conn, "mostly_short")
    here = database.settings(poll=600)
    first = worker(processes, "--nickname", "a", "--types", "mostly_short", "--concurrency", "1", settings=here)
    tasks.create_many(conn, "mostly_short", [None] * 2000, created_by=1)
    wait_until(lambda: tasks.find(conn, status=["success"]).total == 2000)

    def claimed_ahead(gate: Path) -> list[int] | None:
        """A long task and 50 short ones that were claimed with it, and given back; None where they were not."""
        ids = tasks.create_many(conn, "mostly_short", [{"gate": str(gate)}] + [None] * 50, created_by=1)
        wait_until(begun(gate))
        with suppress(
            AssertionError
        ):  # a machine that stands still for 50 ms makes it claim nothing ahead for a second
            wait_until(lambda: first.events("worker.returned"), timeout=2)
            return ids
        gate.touch()
        wait_until(lambda: set(statuses(conn, ids)) == {"success"})
        return None

    gates = (tmp_path / f"gate{n}" for n in range(100))
    long, *short = wait_until(lambda: claimed_ahead(next(gates)))
    gate = Path(json.loads(tasks.get(conn, long)["data"])["gate"])
    worker(processes, "--nickname", "b", "--types", "mostly_short", "--concurrency", "1", settings=here)
    for id in short:
        row = wait_until(ended(conn, id))
        assert row["worker"].startswith("b:")
    assert tasks.get(conn, long)["status"] == "started"
    gate.touch()
    assert wait_until(ended(conn, long))["attempt"] == 1


def test_far_from_postgres_as_many_more_are_claimed_ahead_as_its_answers_take_longer(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    conn.execute(
        "create function dawdle() returns trigger language plpgsql as 'begin perform pg_sleep(0.1); return null; end';"
        "create trigger dawdle after update on tasks for each statement execute function dawdle()"
    )
    register(conn, "echo")
    tasks.create_many(conn, "echo", ["1"] * 20_000, created_by=1)
    worker(processes, "--types", "echo", "--concurrency", "10")
    most = "select count(*) > 100 from tasks where status = 'started'"
    wait_until(lambda: conn.execute(most).fetchone() == (True,))
