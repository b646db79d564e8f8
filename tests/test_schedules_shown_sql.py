"""What is shown of schedules: their runs and numbers, what is stale, what workers keep in memory."""

from __future__ import annotations

from typing import Any

import pytest

from pgfleet import errors, schedules
from pgfleet.schedules import Schedule, Trigger
from tests.support.database import Database
from tests.support.firing import HOURLY, fleet, settle
from tests.support.fleet import OTHER, WORKER, claim, lapse, register, value


@pytest.mark.parametrize("accounted", [False, True])
def test_a_schedule_shows_its_runs_whether_accounted_for_or_not(database: Database, accounted: bool) -> None:
    conn = fleet(database)
    schedules.put(conn, Schedule("s", "job", (HOURLY,)))
    ids = []
    for status in ("success", "failure", "success"):
        schedules.trigger(conn, "s")
        ids.append(settle(conn, status))
        if accounted:
            conn.execute("select end_runs()")
    state = schedules.get(conn, "s")
    assert (state.successes, state.failures, state.running) == (2, 1, 0)
    assert (state.last_task, state.last_status) == (ids[-1], "success")
    assert state.last_ended_at is not None
    page = schedules.runs(conn, "s", limit=2)
    assert ([row["id"] for row in page.rows], page.total) == (ids[:0:-1], 3)
    ids.append(schedules.trigger(conn, "s"))
    state = schedules.get(conn, "s")
    assert (state.running, state.last_task, state.last_status) == (1, ids[-1], "fresh")
    conn.execute("select cancel_task(%s)", [ids[-1]])
    conn.execute("select end_runs()")
    conn.execute("delete from tasks")  # purged: the schedule remembers
    state = schedules.get(conn, "s")
    assert (state.successes, state.failures, state.last_task, state.last_status) == (2, 1, ids[-1], "cancelled")


def test_settles_of_the_same_schedules_in_any_order_do_not_wait_for_each_other(database: Database) -> None:
    conn, second = fleet(database), database.connect()
    for name in ("a", "b"):
        schedules.put(conn, Schedule(name, "job", (Trigger.on("e"),)))
    for _ in range(2):
        schedules.emit(conn, "e")
    ids = claim(conn, 4)
    finish = "select finish_tasks(%s, %s, '{1,1}', '{r,r}')"
    with conn.transaction(), second.transaction():
        second.execute("set local lock_timeout = '10 s'")
        conn.execute(finish, [WORKER, [ids[0], ids[1]]])
        second.execute(finish, [WORKER, [ids[3], ids[2]]])
    assert [state.successes for state in schedules.find(conn).schedules] == [2, 2]


def test_a_task_without_a_schedule_leaves_no_trace(database: Database) -> None:
    conn = fleet(database)
    conn.execute("select create_task('job', '', 1)")
    settle(conn, "success")
    assert value(conn, "select count(*) from run_ends") == 0


def test_schedules_are_found_by_group_type_and_state(database: Database) -> None:
    conn = fleet(database)
    for n in range(5):
        schedules.put(conn, Schedule(f"s{n}", "job", group="odd" if n % 2 else "even", enabled=n < 3))

    def names(**filters: Any) -> tuple[list[str], int]:
        found = schedules.find(conn, **filters)
        return [state.name for state in found.schedules], found.total

    assert names(group="odd") == (["s1", "s3"], 2)
    assert names(enabled=False) == (["s3", "s4"], 2)
    assert names(type="other") == ([], 0)
    assert names(offset=3, limit=1) == (["s3"], 5)
    assert names(offset=9) == ([], 5)


def test_a_schedule_that_no_live_worker_declares_is_stale_until_one_does(database: Database) -> None:
    conn = fleet(database)
    register(conn, OTHER)
    schedules.put(conn, Schedule("by code", "job", declared=True))
    schedules.put(conn, Schedule("by hand", "job"))

    def stale() -> list[str]:
        listed = [state.name for state in schedules.find(conn).schedules if state.stale]
        assert listed == [state.name for state in schedules.find(conn, stale=True).schedules]
        assert schedules.find(conn, stale=True).total == len(listed)
        return listed

    assert stale() == ["by code"]
    schedules.declare(conn, OTHER, names=["by code"])
    assert stale() == []
    lapse(conn, OTHER)
    assert stale() == ["by code"]
    lapse(conn, WORKER)
    assert stale() == []  # nobody lives: nobody says anything


def test_what_workers_keep_in_memory_is_shown_while_they_live(database: Database) -> None:
    conn = fleet(database)
    schedules.declare(conn, WORKER, in_memory=[{"name": "a", "every": 5}, {"name": "b"}])
    schedules.declare(conn, WORKER, names=["x"])
    assert [row["schedule"]["name"] for row in schedules.in_memory(conn)] == ["a", "b"]
    lapse(conn)
    assert schedules.in_memory(conn) == []
    with pytest.raises(errors.LostWorker):
        schedules.declare(conn, "nobody", names=[])
