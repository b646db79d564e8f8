"""The ledger of ended runs stays short where nobody fires, and who shortens it waits for nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pgfleet import schedules
from pgfleet.schedules import Schedule
from pgfleet.workers import order_worker
from tests.support.database import Database
from tests.support.firing import finish, fleet
from tests.support.fleet import Connection, column, sqlstate, value
from tests.support.processes import Processes
from tests.support.workers import id_of, worker

LEDGER = "select count(*) from run_ends"
LATE = "update run_ends set ended_at = now() - interval '3 minutes'"
ACCOUNT = "select account_for_ends()"


def run(conn: Connection, name: str) -> int:
    """A run of the schedule, done; answers its id."""
    schedules.trigger(conn, name)
    return finish(conn)


@pytest.mark.parametrize("how", [("--no-schedules",), ()], ids=["without-schedules", "paused"])
def test_a_fleet_that_fires_nothing_accounts_for_its_runs_all_the_same(
    database: Database, processes: Processes, wait_until: Callable[..., Any], how: tuple[str, ...]
) -> None:
    conn = fleet(database, *(Schedule(name, "job") for name in "ab"))
    first = worker(processes, "--types", "echo", *how)
    if not how:
        order_worker(conn, id_of(first), "pause")
        first.wait_for_event("worker.paused")
    ids = [run(conn, name) for name in "aab"]
    conn.execute(LATE)
    wait_until(lambda: not value(conn, LEDGER), what="the ledger is empty")
    conn.execute("delete from tasks")
    a, b = schedules.get(conn, "a"), schedules.get(conn, "b")
    assert (a.successes, a.last_task, b.successes, b.last_task) == (2, ids[1], 1, ids[2])


def test_what_a_firing_worker_may_yet_fetch_is_left_to_it(database: Database) -> None:
    conn = fleet(database, Schedule("s", "job"))
    run(conn, "s")
    assert (value(conn, ACCOUNT), value(conn, LEDGER)) == (0, 1)
    conn.execute(LATE)
    assert (value(conn, ACCOUNT), value(conn, LEDGER)) == (1, 0)
    assert value(conn, ACCOUNT) == 0


def test_a_schedule_that_somebody_has_locked_comes_with_a_later_call_and_nothing_waits(database: Database) -> None:
    conn, holder = fleet(database, *(Schedule(name, "job") for name in "ab")), database.connect()
    for name in "aab":
        run(conn, name)
    conn.execute(LATE)
    conn.execute("set lock_timeout = '5 s'")
    with holder.transaction():
        holder.execute("select from schedules where name = 'a' for update")
        assert value(conn, ACCOUNT) == 1
        assert column(conn, "select schedule from run_ends") == ["a", "a"]
        assert [one.successes for one in schedules.find(conn).schedules] == [2, 1]
    assert (value(conn, ACCOUNT), value(conn, LEDGER)) == (1, 0)
    assert [one.successes for one in schedules.find(conn).schedules] == [2, 1]


def test_two_that_account_at_once_count_each_run_once_and_wait_for_nothing(database: Database) -> None:
    conn, second = fleet(database, *(Schedule(name, "job") for name in "ab")), database.connect()
    for name in "ab":
        run(conn, name)
    schedules.trigger(conn, "b")
    schedules.remove(conn, "b")  # its run ends after it
    finish(conn)
    conn.execute(LATE)
    with conn.transaction(), second.transaction():
        second.execute("set local lock_timeout = '5 s'")
        assert value(conn, ACCOUNT) == 1
        assert value(second, ACCOUNT) == 0
    assert (value(conn, LEDGER), schedules.get(conn, "a").successes) == (0, 1)


def test_a_settle_waits_for_nobody_who_accounts(database: Database) -> None:
    conn, second = fleet(database, Schedule("s", "job")), database.connect()
    run(conn, "s")
    conn.execute(LATE)
    schedules.trigger(conn, "s")
    with second.transaction():
        assert value(second, ACCOUNT) == 1
        conn.execute("set lock_timeout = '5 s'")
        finish(conn)
    assert (schedules.get(conn, "s").successes, value(conn, LEDGER)) == (2, 1)


def test_a_very_long_ledger_is_taken_in_pieces(database: Database) -> None:
    conn = fleet(database, Schedule("s", "job"))
    id = run(conn, "s")
    conn.execute(
        "insert into run_ends (schedule, task, run_at, status, ended_at)"
        " select 's', %s, now(), 'success', now() - interval '1 hour' from generate_series(1, 2500)",
        [id],
    )
    conn.execute(LATE)
    left = []
    while value(conn, ACCOUNT):
        left.append(value(conn, LEDGER))
        assert schedules.get(conn, "s").successes == 2501
    assert left == [1501, 501, 0]
    assert sqlstate(conn, "select end_runs()") is None
    assert schedules.get(conn, "s").successes == 2501
