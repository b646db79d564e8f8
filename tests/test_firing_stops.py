"""Firing stopped for the whole fleet, and schedules disabled: nothing starts by itself, and what was not made up for."""

from __future__ import annotations

from pgfleet import firing, schedules
from pgfleet.schedules import Schedule, Trigger
from tests.support.database import Database
from tests.support.firing import HOUR, HOURLY, come_due, due_times, finish, fleet
from tests.support.fleet import WORKER, Blocked, claim, column, value


def test_while_firing_is_stopped_nothing_starts_by_itself_and_events_are_held(database: Database) -> None:
    conn = fleet(database, Schedule("s", "job", (HOURLY, Trigger.on("e")), overlap="queue", catch_up="all"))
    ear = database.connect()
    ear.execute("listen schedules_changed")
    (first,) = come_due(conn, 1.5 * HOUR)
    schedules.stop(conn)
    assert schedules.is_stopped(database.connect())  # remembered
    assert (firing.fire(conn).triggers, firing.next_due_in(conn)) == (0, None)
    assert [schedules.emit(conn, "e", n) for n in (1, 2)] == [0, 0]
    assert value(conn, "select count(*) from tasks") == 0
    by_hand = schedules.trigger(conn, "s")

    assert schedules.start(conn) == 2
    ear.execute("select 1")
    assert len(list(ear.notifies(timeout=0))) == 2
    payloads = "select data::jsonb -> 'event' -> 'payload' from tasks where id > %s order by id"
    assert column(conn, payloads, by_hand) == [1, 2]
    assert schedules.start(conn) == 0
    firing.fire(conn)
    assert schedules.get(conn, "s").owed == 2
    for _ in range(3):
        finish(conn)
    firing.fire(conn)
    assert due_times(conn) == [first]


def test_an_owed_run_waits_while_firing_is_stopped(database: Database) -> None:
    conn = fleet(database, Schedule("s", "job", (HOURLY,), overlap="queue"))
    schedules.trigger(conn, "s")
    come_due(conn)
    firing.fire(conn)
    schedules.stop(conn)
    finish(conn)
    assert firing.fire(conn).tasks == []
    schedules.start(conn)
    assert len(firing.fire(conn).tasks) == 1


def test_an_event_that_is_held_while_firing_starts_is_not_forgotten(database: Database) -> None:
    conn = fleet(database, Schedule("s", "job", (Trigger.on("e"),)))
    second, third = database.connect(), database.connect()
    schedules.stop(conn)
    with conn.transaction():
        assert schedules.emit(conn, "e") == 0
        starting = Blocked(third, second, lambda: schedules.start(second))
    assert starting.result() == 1


def test_whoever_has_stopped_firing_sees_nothing_fired_any_more(database: Database) -> None:
    conn = fleet(database, Schedule("s", "job", (HOURLY,)), Schedule("t", "job", (HOURLY,)))
    second, third = database.connect(), database.connect()
    second.execute("set lock_timeout = '10 s'")
    for name in "st":
        come_due(conn, name=name)
    with conn.transaction():
        (due,) = conn.execute("select id, due_at from due_triggers(1)")
        stopping = Blocked(second, third, lambda: schedules.stop(third))
        assert firing.fire(second).triggers == 0  # who comes after the one who stops waits for nobody
        assert len(value(conn, "select fire_trigger(%s, array[%s], %s)", *due, due[1] + HOUR)) == 1
    stopping.result()
    assert firing.fire(second).triggers == 0
    assert len(due_times(conn)) == 1
    schedules.start(conn)
    assert len(firing.fire(second).tasks) == 1


def test_an_owed_run_that_begins_while_firing_is_stopped_is_waited_for(database: Database) -> None:
    conn = fleet(database, Schedule("s", "job", (HOURLY,), overlap="queue"))
    second, third = database.connect(), database.connect()
    schedules.trigger(conn, "s")
    come_due(conn)
    firing.fire(conn)
    finish(conn)
    with conn.transaction():
        assert len(value(conn, "select end_runs()")) == 1
        stopping = Blocked(second, third, lambda: schedules.stop(third))
    stopping.result()
    assert len(due_times(conn)) == 1


def test_no_owed_run_begins_for_one_who_comes_after_the_one_who_stops(database: Database) -> None:
    conn = fleet(database, Schedule("s", "job", (HOURLY,), overlap="queue"), Schedule("t", "job", (HOURLY,)))
    second, third = database.connect(), database.connect()
    schedules.trigger(conn, "s")
    for name in "st":
        come_due(conn, name=name)
    firing.fire(conn)
    while claimed := claim(conn):
        value(conn, "select finish_tasks(%s, %s, '{1}', '{done}')", WORKER, claimed)
    come_due(conn, name="t")
    with conn.transaction():
        assert column(conn, "select schedule from due_triggers(1)") == ["t"]
        stopping = Blocked(second, third, lambda: schedules.stop(third))
        assert firing.fire(second).tasks == []
    stopping.result()
    assert firing.fire(second).tasks == []
    schedules.start(conn)
    assert len(firing.fire(second).tasks) == 2


def test_due_times_of_a_disabled_schedule_pass_and_are_not_caught_up(database: Database) -> None:
    conn = fleet(database, Schedule("s", "job", (HOURLY, Trigger.on("e")), catch_up="all", overlap="queue"))
    schedules.disable(conn, "s")
    come_due(conn, 3.5 * HOUR)
    assert (firing.fire(conn).triggers, firing.next_due_in(conn), schedules.emit(conn, "e")) == (0, None, 0)
    schedules.enable(conn, "s")
    assert firing.fire(conn).tasks == []
    state = schedules.get(conn, "s")
    assert (state.skipped, state.last_skip_reason) == (4, "disabled")
    assert state.next_due is not None


def test_what_a_schedule_owed_is_dropped_when_it_is_disabled(database: Database) -> None:
    conn = fleet(database, Schedule("s", "job", (HOURLY,), overlap="queue"))
    schedules.trigger(conn, "s")
    come_due(conn)
    firing.fire(conn)
    schedules.disable(conn, "s")
    finish(conn)
    assert firing.fire(conn).tasks == []
    state = schedules.get(conn, "s")
    assert (state.owed, state.skipped, state.last_skip_reason) == (0, 1, "disabled")
