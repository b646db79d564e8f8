"""Firing: each due time once, whoever fires and whoever dies meanwhile; overlap, catch-up, one-time, events, stopping."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from pgfleet import firing, schedules
from pgfleet.schedules import Schedule, Trigger
from tests.support.database import Database
from tests.support.firing import HOUR, HOURLY, come_due, due_times, finish, fleet
from tests.support.fleet import WORKER, claim, column, heard, sqlstate, task, value
from tests.support.waiting import wait_until

# Once


def test_a_due_trigger_makes_its_run_and_sets_its_clock_on(database: Database) -> None:
    conn = fleet(database, Schedule("s", "job", (HOURLY,), data="d", priority=7, node="here", max_retries=2))
    ear = database.connect()
    ear.execute("listen task_created")
    assert firing.fire(conn).triggers == 0
    (due,) = come_due(conn)
    fired = firing.fire(conn)
    assert heard(ear) == fired.tasks
    row = task(conn, fired.tasks[0])
    assert {name: row[name] for name in ("type", "data", "status", "priority", "node", "max_retries")} == {
        "type": "job",
        "data": "d",
        "status": "fresh",
        "priority": 7,
        "node": "here",
        "max_retries": 2,
    }
    assert (row["schedule"], row["due_at"]) == ("s", due)
    assert schedules.get(conn, "s").next_due == due + HOUR  # fixed rate: from due time to due time
    assert firing.fire(conn).triggers == 0


def test_of_six_that_fire_at_once_each_due_time_is_fired_by_one(database: Database) -> None:
    many = [Schedule(f"s{n:03}", "job", (HOURLY, Trigger.interval(2 * HOUR))) for n in range(120)]
    conn = fleet(database, *many)
    conn.execute("update triggers set due_at = date_trunc('second', now()) - every / 3600")
    gate = threading.Barrier(6)

    def work(_: int) -> int:
        mine = database.connect()
        gate.wait(60)
        made = 0
        while firing.next_due_in(mine) == 0:
            made += len(firing.fire(mine, 16).tasks)
        return made

    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(work, range(6)))
    # The second trigger of each comes due while the run by the first is unfinished: skipped.
    assert sum(made) == value(conn, "select count(*) from tasks") == 120
    assert value(conn, "select count(distinct schedule) from tasks") == 120
    assert value(conn, "select sum(skipped) from schedules") == 120


def test_who_fires_while_another_does_takes_the_rest_and_waits_for_nothing(database: Database) -> None:
    conn = fleet(database, *(Schedule(name, "job", (HOURLY,)) for name in "ab"))
    second = database.connect()
    second.execute("set lock_timeout = '10 s'")
    for name in "ab":
        come_due(conn, name=name)
    with conn.transaction():
        (held,) = column(conn, "select schedule from due_triggers(1)")
        fired = firing.fire(second)
        assert {task(second, id)["schedule"] for id in fired.tasks} == {"a", "b"} - {held}
        assert firing.fire(second).triggers == 0
    assert len(firing.fire(second).tasks) == 1


def test_a_trigger_that_another_is_firing_is_left_to_it_even_when_named(database: Database) -> None:
    conn = fleet(database, Schedule("s", "job", (HOURLY,)))
    second = database.connect()
    second.execute("set lock_timeout = '10 s'")
    come_due(conn)
    fire = "select fire_trigger(id, array[due_at], due_at + '1 hour') from triggers"
    with conn.transaction():
        assert len(value(conn, fire)) == 1
        assert value(second, fire) == []
    assert value(conn, "select count(*) from tasks") == 1


def test_two_triggers_of_one_schedule_are_never_judged_at_once(database: Database) -> None:
    conn = fleet(database, Schedule("s", "job", (HOURLY, Trigger.interval(2 * HOUR))))
    second = database.connect()
    come_due(conn)
    conn.execute("update triggers set due_at = due_at - every / 3600")
    with conn.transaction():
        assert len(column(conn, "select id from due_triggers(1)")) == 1
        assert firing.fire(second).triggers == 0  # the other trigger is free, its schedule is not
    assert len(firing.fire(second).tasks) == 1


@pytest.mark.parametrize("how", ["terminated", "rolled back"])
def test_a_firing_that_dies_half_way_loses_nothing_and_doubles_nothing(database: Database, how: str) -> None:
    conn = fleet(database, *(Schedule(f"s{n}", "job", (HOURLY,)) for n in range(10)))
    conn.execute("update triggers set due_at = now() - interval '1 second'")
    dying = database.connect(autocommit=False)
    ids = column(dying, "select id from due_triggers(6)")
    dying.execute(
        "select fire_trigger(t.id, array[t.due_at], t.due_at + '1 hour') from triggers t where id = any (%s)", [ids[:3]]
    )
    assert value(dying, "select count(*) from tasks") == 3
    if how == "terminated":
        value(conn, "select pg_terminate_backend(%s)", dying.info.backend_pid)
        with pytest.raises(psycopg.OperationalError):
            dying.execute("select 1")
    else:
        dying.rollback()
    wait_until(
        lambda: (
            not value(
                conn,
                "select count(*) from pg_locks where relation = 'triggers'::regclass and pid <> pg_backend_pid()"
                " and database = (select oid from pg_database where datname = current_database())",
            )
        )
    )
    assert len(firing.fire(conn).tasks) == 10
    assert value(conn, "select count(distinct schedule) from tasks") == 10
    assert firing.fire(conn).triggers == 0


def test_a_clock_that_steps_back_fires_nothing_twice(database: Database) -> None:
    conn = fleet(database, Schedule("s", "job", (HOURLY,), overlap="allow"))
    (due,) = come_due(conn)
    firing.fire(conn)
    # For the row, a clock set back by an hour is a row set on by one.
    conn.execute("update triggers set due_at = due_at + interval '1 hour'")
    assert firing.fire(conn).triggers == 0
    # And were the row itself set back, by a restored backup or by hand, the task's own due time stands in the way.
    conn.execute("update triggers set due_at = %s", [due])
    assert firing.fire(conn).tasks == []
    assert due_times(conn) == [due]
    assert schedules.get(conn, "s").next_due == due + HOUR


def test_a_due_time_that_two_triggers_share_is_one_run_and_no_skip(database: Database) -> None:
    for overlap in ("skip", "queue", "allow"):
        schedule = Schedule(overlap, "job", (HOURLY, Trigger.interval(2 * HOUR)), overlap=overlap)  # type: ignore[arg-type]
        conn = fleet(database, schedule) if overlap == "skip" else database.connect()
        schedules.put(conn, schedule)
    conn.execute("update triggers set due_at = date_trunc('second', now())")
    fired = firing.fire(conn)
    assert (fired.triggers, len(fired.tasks)) == (6, 3)
    assert value(conn, "select sum(skipped) from schedules") == 0
    assert value(conn, "select count(*) from schedules where owed <> '{}'") == 0


def test_a_trigger_that_is_not_due_or_would_not_move_on_is_refused(database: Database) -> None:
    conn = fleet(database, Schedule("s", "job", (HOURLY,)))
    fire = "select fire_trigger(id, array[due_at], due_at + %s::interval) from triggers"
    assert sqlstate(conn, fire, "1 hour") == "PF006"
    come_due(conn)
    assert sqlstate(conn, fire, "0") == "PF006"
    assert value(conn, "select fire_trigger(404, '{}', now())") == []
    assert value(conn, "select count(*) from tasks") == 0


# Overlap


@pytest.mark.parametrize("state", ["fresh", "started", "waiting"])
@pytest.mark.parametrize("overlap", ["skip", "queue", "allow"])
def test_a_due_time_that_finds_a_run_unfinished_goes_by_the_overlap_rule(
    database: Database, overlap: schedules.Overlap, state: str
) -> None:
    conn = fleet(database, Schedule("s", "job", (HOURLY,), overlap=overlap, max_retries=1))
    schedules.trigger(conn, "s")
    if state != "fresh":
        claim(conn)
    if state == "waiting":
        conn.execute("select fail_task(%s, 1, 1, 'broke')", [WORKER])
    (due,) = come_due(conn)
    fired = firing.fire(conn)
    seen = schedules.get(conn, "s")
    assert (len(fired.tasks), seen.owed, seen.skipped, seen.running) == {
        "skip": (0, 0, 1, 1),
        "queue": (0, 1, 0, 1),
        "allow": (1, 0, 0, 2),
    }[overlap]
    assert seen.next_due == due + HOUR
    assert seen.last_skip_reason == ("overlap" if overlap == "skip" else None)


def test_a_queued_run_begins_when_the_run_before_ends_and_only_one_is_queued(database: Database) -> None:
    conn = fleet(database, Schedule("s", "job", (HOURLY,), overlap="queue"))
    ear = database.connect()
    schedules.trigger(conn, "s")
    (first,) = come_due(conn)
    firing.fire(conn)
    come_due(conn)
    firing.fire(conn)
    state = schedules.get(conn, "s")
    assert (state.owed, state.skipped) == (1, 1)
    ear.execute("listen schedules_changed")
    finish(conn)
    ear.execute("select 1")
    assert [notice.payload for notice in ear.notifies(timeout=0)] == ["s"]
    (owed,) = firing.fire(conn).tasks
    assert task(conn, owed)["due_at"] == first
    assert firing.fire(conn).tasks == []
    finish(conn)
    assert firing.fire(conn).tasks == []
    assert schedules.get(conn, "s").successes == 2


def test_a_queued_run_waits_for_the_last_of_several_unfinished_runs(database: Database) -> None:
    conn = fleet(database, Schedule("s", "job", (HOURLY, Trigger.on("e")), overlap="queue"))
    for _ in range(2):
        schedules.emit(conn, "e")
    come_due(conn)
    firing.fire(conn)
    for expected in (0, 1):
        finish(conn)
        assert len(firing.fire(conn).tasks) == expected


def test_a_run_that_ends_while_a_firing_owes_another_lets_it_begin(database: Database) -> None:
    conn = fleet(database, Schedule("s", "job", (HOURLY,), overlap="queue"))
    second = database.connect()
    schedules.trigger(conn, "s")
    come_due(conn)
    with conn.transaction():
        conn.execute("select fire_trigger(id, array[due_at], due_at + '1 hour') from due_triggers()")
        finish(second)  # waits for nothing, and can't know of what is owed
        assert firing.fire(second).tasks == []
    assert len(firing.fire(second).tasks) == 1


def test_a_look_reads_nothing_of_twenty_thousand_idle_and_disabled_schedules(database: Database) -> None:
    conn = fleet(database)
    conn.execute(
        "insert into schedules (name, type, enabled) select 's' || n, 'job', n % 2 = 0 from generate_series(1, 20000) n"
    )
    conn.execute(
        "insert into triggers (schedule, kind, every, due_at, paused)"
        " select name, 'interval', '1 hour', now() + case when enabled then '1 hour' else '-1 hour' end::interval, not enabled"
        " from schedules"
    )
    read = (
        "select coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0) from pg_stat_xact_user_tables"
        " where relname in ('schedules', 'triggers', 'tasks', 'run_ends')"
    )
    for statistics in ("none", "fresh"):
        if statistics == "fresh":
            conn.execute("analyze")
        with conn.transaction():
            before = value(conn, read)
            assert conn.execute("select * from due_triggers()").fetchall() == []
            assert value(conn, "select end_runs()") == []
            assert value(conn, "select next_due_in()") > 3000
            assert value(conn, read) - before <= 5
