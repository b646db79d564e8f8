"""Firing by the rules: catch-up, fixed rate and fixed delay, one-time, events, all nodes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgfleet import errors, firing, schedules
from pgfleet.firing import Due, plan
from pgfleet.schedules import Schedule, Trigger
from tests.support.database import Database
from tests.support.firing import HOUR, HOURLY, come_due, finish, fleet
from tests.support.fleet import OTHER, WORKER, column, lapse, register, sqlstate, task, value

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def due(ago: timedelta, **given: Any) -> Due:
    """A trigger that came due so long before noon."""
    base: dict[str, Any] = {
        "id": 1,
        "schedule": "s",
        "kind": "interval",
        "every": HOUR,
        "fixed_delay": False,
        "cron": None,
        "time_zone": "UTC",
        "due_at": NOON - ago,
        "unaimed": False,
        "before": None,
        "catch_up": "once",
        "catch_up_limit": 100,
        "at_present": NOON,
    }
    return Due(**{**base, **given})


def crontab(expression: str) -> dict[str, Any]:
    return {"kind": "cron", "every": None, "cron": expression}


# Which due times


@pytest.mark.parametrize("clock", [{}, crontab("30 * * * *")])
@pytest.mark.parametrize(
    ("rule", "limit", "kept", "skipped"),
    [("once", 100, 1, 5), ("none", 100, 0, 6), ("all", 100, 6, 0), ("all", 4, 4, 2)],
)
def test_missed_due_times_are_caught_up_by_the_rule_the_latest_first_choice(
    clock: dict[str, Any], rule: str, limit: int, kept: int, skipped: int
) -> None:
    firing = plan(due(5.5 * HOUR, catch_up=rule, catch_up_limit=limit, **clock))
    latest = [NOON - (n + 0.5) * HOUR for n in range(6)]
    assert firing.due_times == latest[:kept][::-1]
    assert (firing.skipped, firing.reason) == (skipped, "missed" if skipped else None)
    assert firing.next_due == NOON + HOUR / 2


@pytest.mark.parametrize("rule", ["none", "once", "all"])
def test_a_due_time_that_is_seconds_late_is_not_missed(rule: str) -> None:
    firing = plan(due(2 * SECOND, catch_up=rule))
    assert (firing.due_times, firing.skipped, firing.next_due) == ([NOON - 2 * SECOND], 0, NOON - 2 * SECOND + HOUR)


def test_due_times_from_before_the_schedule_was_enabled_again_are_dropped() -> None:
    firing = plan(due(5.5 * HOUR, catch_up="all", before=NOON - HOUR))
    assert (firing.due_times, firing.skipped, firing.reason) == ([NOON - HOUR / 2], 5, "disabled")


def test_a_month_of_missed_seconds_is_planned_without_counting_them_all() -> None:
    for clock in (crontab("* * * * * *"), {"every": SECOND}):
        firing = plan(due(timedelta(days=30), catch_up="all", catch_up_limit=3, **clock))
        assert firing.due_times == [NOON - 2 * SECOND, NOON - SECOND, NOON]
        assert firing.next_due == NOON + SECOND
        assert firing.skipped >= 998


def test_a_new_cron_trigger_is_aimed_and_not_fired() -> None:
    firing = plan(due(timedelta(0), unaimed=True, **crontab("0 2 * * *")))
    assert (firing.due_times, firing.next_due, firing.skipped) == ([], NOON + 14 * HOUR, 0)


def test_what_was_missed_is_caught_up_one_after_the_other_unless_overlap_is_allowed(database: Database) -> None:
    for overlap, at_once in (("skip", 1), ("queue", 1), ("allow", 4)):
        schedule = Schedule(overlap, "job", (HOURLY,), catch_up="all", overlap=overlap)  # type: ignore[arg-type]
        conn = fleet(database, schedule) if overlap == "skip" else database.connect()
        schedules.put(conn, schedule)
        (first,) = come_due(conn, 3.5 * HOUR, overlap)
        assert len(firing.fire(conn).tasks) == at_once
        while schedules.get(conn, overlap).running:
            finish(conn)
            firing.fire(conn)
        state = schedules.get(conn, overlap)
        assert (state.successes, state.owed, state.skipped) == (4, 0, 0)
        mine = column(conn, "select due_at from tasks where schedule = %s order by id", overlap)
        assert mine == [first + n * HOUR for n in range(4)]


# Clocks


def test_a_fixed_delay_counts_from_the_end_of_the_run(database: Database) -> None:
    conn = fleet(database, Schedule("s", "job", (Trigger.interval(HOUR, fixed_delay=True),)))
    come_due(conn)
    firing.fire(conn)
    assert schedules.get(conn, "s").next_due is None
    assert firing.next_due_in(conn) is None
    finish(conn)
    ended = value(conn, "select ended_at from run_ends")
    firing.fire(conn)
    assert schedules.get(conn, "s").next_due == ended + HOUR


def test_a_fixed_delay_whose_due_time_was_skipped_or_whose_run_was_deleted_goes_on(database: Database) -> None:
    conn = fleet(database, Schedule("s", "job", (Trigger.interval(HOUR, fixed_delay=True),)))
    schedules.trigger(conn, "s")
    come_due(conn)
    assert firing.fire(conn).tasks == []
    assert schedules.get(conn, "s").skipped == 1
    conn.execute("delete from tasks")
    firing.fire(conn)
    assert firing.next_due_in(conn) is not None


def test_a_one_time_trigger_fires_once_and_stays_done(database: Database) -> None:
    wanted = Schedule("s", "job", (Trigger.once(after=HOUR),))
    conn = fleet(database, wanted)
    assert 3590 < firing.next_due_in(conn) <= 3600  # type: ignore[operator]
    come_due(conn)
    assert len(firing.fire(conn).tasks) == 1
    (trigger,) = schedules.get(conn, "s").triggers
    assert trigger.done_at is not None
    assert schedules.put(conn, wanted) == "unchanged"
    assert (firing.next_due_in(conn), firing.fire(conn).triggers) == (None, 0)


def test_a_one_time_trigger_is_owed_not_skipped(database: Database) -> None:
    conn = fleet(database, Schedule("s", "job", (Trigger.once(after=HOUR),)))
    schedules.trigger(conn, "s")
    come_due(conn)
    assert firing.fire(conn).tasks == []
    finish(conn)
    assert len(firing.fire(conn).tasks) == 1


def test_a_one_time_trigger_in_the_past_fires_at_once(database: Database) -> None:
    conn = fleet(database, Schedule("s", "job", (Trigger.once(at=datetime(2020, 1, 1, tzinfo=UTC)),)))
    assert firing.next_due_in(conn) == 0
    assert len(firing.fire(conn).tasks) == 1


def test_a_cron_trigger_put_in_sql_is_aimed_by_the_first_that_looks(database: Database) -> None:
    conn = fleet(database)
    put = "select put_schedule('s', 'job', time_zone => 'Asia/Tokyo', triggers => %s)"
    conn.execute(put, ['[{"kind": "cron", "cron": "0 2 * * *"}]'])
    assert schedules.get(conn, "s").next_due is None
    assert firing.fire(conn).tasks == []
    aimed = schedules.get(conn, "s").next_due
    assert aimed is not None
    assert (aimed.astimezone(UTC).hour, aimed.minute) == (17, 0)


def test_a_cron_expression_that_is_none_is_shelved_and_keeps_nothing_back(database: Database) -> None:
    conn = fleet(database, Schedule("good", "job", (HOURLY,)))
    conn.execute("select put_schedule('bad', 'job', triggers => %s)", ['[{"kind": "cron", "cron": "99 2 * * *"}]'])
    come_due(conn, name="good")
    fired = firing.fire(conn)
    assert (len(fired.tasks), [name for name, _ in fired.problems]) == (1, ["bad"])
    (trigger,) = schedules.get(conn, "bad").triggers
    assert "bad minute" in str(trigger.problem)
    assert firing.fire(conn).triggers == 0


def test_a_schedule_whose_run_can_not_be_made_is_shelved_and_keeps_nothing_back(database: Database) -> None:
    conn = fleet(database, *(Schedule(name, "job", (HOURLY,)) for name in ("a", "b", "c")))
    for name in ("a", "b", "c"):
        come_due(conn, name=name)
    conn.execute("alter table tasks add constraint no_b check (schedule <> 'b')")
    fired = firing.fire(conn)
    assert ({task(conn, id)["schedule"] for id in fired.tasks}, [name for name, _ in fired.problems]) == (
        {"a", "c"},
        ["b"],
    )
    assert "no_b" in str(schedules.get(conn, "b").triggers[0].problem)


def test_a_shelved_trigger_is_tried_anew_when_the_very_same_schedule_is_put_again(database: Database) -> None:
    given = (HOURLY, Trigger.interval(HOUR, fixed_delay=True), Trigger.once(after=HOUR), Trigger.crontab("0 2 * * *"))
    wanted = [Schedule(str(number), "job", (trigger,)) for number, trigger in enumerate(given)]
    conn = fleet(database, *wanted)
    first = [schedules.get(conn, one.name).next_due for one in wanted]
    for one in wanted:
        come_due(conn, name=one.name)
    conn.execute("alter table tasks add constraint none check (schedule is null)")
    assert len(firing.fire(conn).problems) == len(wanted)
    assert firing.fire(conn) == firing.Fired(0, [], [])  # also a pause of fixed length doesn't begin anew by itself
    assert [schedules.get(conn, one.name).next_due for one in wanted] == [None] * 4
    conn.execute("alter table tasks drop constraint none; listen schedules_changed")
    schedules.trigger(conn, "1")
    finish(conn)
    assert (firing.fire(conn).tasks, schedules.get(conn, "1").next_due) == ([], None)  # nor by the end of a run
    list(conn.notifies(timeout=0))
    assert set(schedules.put_all(conn, wanted).values()) == {"unchanged"}
    assert {note.payload for note in conn.notifies(timeout=0)} == {"0", "1", "2", "3"}
    again = [schedules.get(conn, one.name) for one in wanted]
    assert [one.triggers[0].problem for one in again] == [None] * 4
    for before, one in zip(first, again, strict=True):
        assert before is not None
        assert one.next_due is not None
        assert one.next_due >= before
    assert again[2].next_due == first[2]
    for one in wanted:
        come_due(conn, name=one.name)
    assert len(firing.fire(conn).tasks) == len(wanted)
    assert {note.payload for note in conn.notifies(timeout=0)} == set()
    assert set(schedules.put_all(conn, wanted).values()) == {"unchanged"}
    assert {note.payload for note in conn.notifies(timeout=0)} == set()


def test_a_shelved_cron_trigger_put_in_sql_is_read_anew(database: Database) -> None:
    conn = fleet(database)
    put = 'select put_schedule(\'bad\', \'job\', triggers => \'[{"kind": "cron", "cron": "99 2 * * *"}]\')'
    assert (value(conn, put), [name for name, _ in firing.fire(conn).problems]) == ("created", ["bad"])
    assert firing.fire(conn).problems == []
    assert (value(conn, put), [name for name, _ in firing.fire(conn).problems]) == ("unchanged", ["bad"])


# Events


def test_an_event_makes_a_run_of_each_enabled_schedule_that_waits_for_it_with_its_payload(database: Database) -> None:
    on = (Trigger.on("e"), HOURLY)
    conn = fleet(
        database,
        Schedule("a", "job", on, data={"x": 1}, priority=1),
        Schedule("b", "job", on, data="text", priority=3),
        Schedule("c", "job", on, priority=2),
        Schedule("d", "job", on, enabled=False),
        Schedule("e", "job", (Trigger.on("other"),)),
    )
    assert schedules.emit(conn, "e", {"books": [1, "ö"]}) == 3
    event = {"name": "e", "payload": {"books": [1, "ö"]}}
    rows = conn.execute("select schedule, data::jsonb, due_at from tasks order by id").fetchall()
    assert rows == [
        ("b", {"data": "text", "event": event}, None),
        ("c", {"event": event}, None),
        ("a", {"x": 1, "event": event}, None),
    ]
    assert schedules.emit(conn, "nobody waits") == 0


def test_events_are_never_skipped_whatever_is_unfinished(database: Database) -> None:
    conn = fleet(database, Schedule("s", "job", (Trigger.on("e"),)))
    assert [schedules.emit(conn, "e") for _ in range(3)] == [1, 1, 1]
    assert schedules.get(conn, "s").running == 3


def test_an_event_comes_and_goes_with_its_transaction_and_locks_no_schedule(database: Database) -> None:
    conn = fleet(database, Schedule("s", "job", (Trigger.on("e"), HOURLY)))
    second = database.connect()
    second.execute("set lock_timeout = '10 s'")
    with conn.transaction(force_rollback=True):
        assert schedules.emit(conn, "e") == 1
    assert value(conn, "select count(*) from tasks") == 0
    come_due(conn)
    with conn.transaction():
        schedules.emit(conn, "e")
        assert len(firing.fire(second).tasks) == 1
    assert value(conn, "select count(*) from tasks") == 2


def test_an_event_with_a_name_that_is_none_is_refused(database: Database) -> None:
    conn = fleet(database)
    for name in ("", "a/b", "x" * 101):
        with pytest.raises(errors.InvalidTask, match="An event's name"):
            schedules.emit(conn, name)
    assert sqlstate(conn, "select emit_event(null)") == "PF006"


# On all nodes


def test_a_run_on_all_nodes_is_one_run_with_a_part_for_each(database: Database) -> None:
    conn = fleet(database, Schedule("s", "job", (HOURLY,), all_nodes=True))
    conn.execute("select register_worker(%s, 'far', '{job}', 1, '1 hour', '1')", [OTHER])
    come_due(conn)
    (id,) = firing.fire(conn).tasks
    assert (task(conn, id)["schedule"], task(conn, id)["status"]) == ("s", "started")
    assert column(conn, "select node from tasks where parent = %s order by node", id) == ["far", "node"]
    assert schedules.get(conn, "s").running == 1
    with pytest.raises(errors.RunUnfinished):
        schedules.trigger(conn, "s")
    finish(conn)
    conn.execute("select claim_tasks(%s, '{job}', 1)", [OTHER])
    conn.execute("select finish_tasks(%s, array(select id from tasks where worker = %s), '{1}', '{r}')", [OTHER, OTHER])
    state = schedules.get(conn, "s")
    assert (state.successes, state.running, state.last_task) == (1, 0, id)


def test_of_two_who_trigger_at_once_above_read_committed_one_is_refused(database: Database) -> None:
    conn = fleet(database, Schedule("s", "job", (HOURLY,)))
    other = database.connect(autocommit=False)
    other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    other.execute("select from schedules")
    schedules.trigger(conn, "s")
    with pytest.raises(psycopg.errors.SerializationFailure):
        schedules.trigger(other, "s")
    other.rollback()
    with pytest.raises(errors.RunUnfinished):
        schedules.trigger(other, "s")


def test_a_run_on_all_nodes_without_a_node_is_a_failure_that_says_so(database: Database) -> None:
    conn = fleet(database, Schedule("s", "job", (HOURLY, Trigger.on("e")), all_nodes=True))
    conn.execute("delete from workers")
    (first,) = come_due(conn)
    (id,) = firing.fire(conn).tasks
    assert (task(conn, id)["status"], task(conn, id)["due_at"]) == ("failure", first)
    assert "No live worker" in task(conn, id)["error"]
    assert schedules.emit(conn, "e") == 1
    assert schedules.get(conn, "s").failures == 2


def test_a_run_on_all_nodes_waits_for_those_whose_heartbeat_is_overdue(database: Database) -> None:
    everywhere = Schedule("s", "job", (HOURLY, Trigger.on("e")), all_nodes=True, overlap="allow")
    conn = fleet(database, everywhere, Schedule("t", "job", (HOURLY,), overlap="allow"))
    conn.execute("select register_worker(%s, 'far', '{job}', 1, '1 hour', '1')", [OTHER])

    def fired() -> dict[str, list[str]]:
        """The nodes that each run went to, by schedule."""
        tasks = firing.fire(conn).tasks
        return {
            task(conn, id)["schedule"]: column(conn, "select node from tasks where parent = %s order by node", id)
            for id in tasks
        }

    lapse(conn)
    lapse(conn, OTHER)
    come_due(conn, name="t")
    come_due(conn)
    assert fired() == {"t": []}
    conn.execute("select renew_worker(%s)", [WORKER])
    assert fired() == {}
    conn.execute("select renew_worker(%s)", [OTHER])
    assert fired() == {"s": ["far", "node"]}

    # One that does not come back is rescued. An event waits for nobody.
    lapse(conn, OTHER)
    come_due(conn)
    assert fired() == {}
    assert schedules.emit(conn, "e") == 1
    conn.execute("select rescue_tasks()")
    assert fired() == {"s": ["node"]}

    # Nor is one waited for whose node has another, or that was told to drain.
    register(conn, f"{WORKER}2")
    lapse(conn)
    come_due(conn)
    assert fired() == {"s": ["node"]}
    conn.execute("update workers set orders = 'drain' where id = %s", [WORKER])
    conn.execute("delete from workers where id <> %s", [WORKER])
    come_due(conn)
    assert fired() == {"s": []}
