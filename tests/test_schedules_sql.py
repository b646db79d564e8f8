"""Schedules as rows: put by any number at once, read, switched, triggered by hand, stale; and their numbers."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg.sql import SQL, Identifier

from pgfleet import db, errors, schedules, sql
from pgfleet.schedules import Schedule, Trigger
from tests.support.database import Database
from tests.support.firing import HOURLY, fleet, settle
from tests.support.fleet import WORKER, claim, column, create, sqlstate, value


def test_a_schedule_is_read_as_it_was_put(database: Database) -> None:
    conn = fleet(database)
    at = datetime(2999, 1, 1, tzinfo=UTC)
    triggers = (
        HOURLY,
        Trigger.interval(timedelta(seconds=90), fixed_delay=True),
        Trigger.crontab("0 2 * * *"),
        Trigger.on("library.imported"),
        Trigger.once(at=at),
    )
    wanted = Schedule(
        "nightly sync",
        "job",
        triggers,
        data={"all": True},
        group="library",
        description="Sync it.",
        created_by=3,
        priority=5,
        max_retries=3,
        retry_delay=timedelta(seconds=60),
        timeout=timedelta(minutes=10),
        node="here",
        overlap="queue",
        catch_up="all",
        catch_up_limit=7,
        time_zone="Europe/Stockholm",
        declared=True,
    )
    assert schedules.put(conn, wanted) == "created"
    now = value(conn, "select now()")
    state = schedules.get(conn, "nightly sync")
    for name in ("name", "type", "group", "description", "created_by", "priority", "max_retries", "retry_delay"):
        assert getattr(state, name) == getattr(wanted, name)
    for name in ("timeout", "node", "all_nodes", "overlap", "catch_up", "catch_up_limit", "time_zone", "declared"):
        assert getattr(state, name) == getattr(wanted, name)
    assert (state.data, state.enabled, state.running, state.owed) == ('{"all": true}', True, 0, 0)
    assert [(t.kind, t.every, t.fixed_delay, t.cron, t.event, t.at) for t in state.triggers] == [
        (t.kind, t.every, t.fixed_delay, t.cron, t.event, t.at) for t in triggers
    ]
    due = [t.due_at for t in state.triggers]
    assert due[3] is None
    assert due[4] == at
    assert due[0] is not None
    assert abs(due[0] - now - timedelta(hours=1)) < timedelta(seconds=30)
    assert due[2] is not None
    assert now < due[2] <= now + timedelta(days=1, hours=1)
    assert state.next_due == min(moment for moment in due if moment is not None)


def test_putting_it_again_changes_nothing_and_a_change_keeps_the_other_triggers_clocks(database: Database) -> None:
    conn, ear = fleet(database), database.connect()
    wanted = Schedule("s", "job", (HOURLY, Trigger.crontab("0 2 * * *"), Trigger.once(after=timedelta(hours=3))))
    schedules.put(conn, wanted)
    ear.execute("listen schedules_changed")
    ids = column(conn, "update triggers set due_at = due_at - interval '7 minutes' returning id")
    before = conn.execute("select * from schedules, triggers order by triggers.id").fetchall()
    assert schedules.put(conn, wanted) == "unchanged"
    assert conn.execute("select * from schedules, triggers order by triggers.id").fetchall() == before
    ear.execute("select 1")
    assert list(ear.notifies(timeout=0)) == []

    other = Schedule("s", "job", (*wanted.triggers[::2], Trigger.on("e")), description="new")
    assert schedules.put(conn, other) == "changed"
    assert column(conn, "select id from triggers order by id")[:2] == ids[::2]
    assert [row[0] for row in before[:1]] == ["s"]
    ear.execute("select 1")
    assert [notice.payload for notice in ear.notifies(timeout=0)] == ["s"]


def test_another_time_zone_sets_cron_triggers_anew(database: Database) -> None:
    conn = fleet(database)
    first, second = (
        schedules.get(conn, "s").next_due
        for zone in ("UTC", "Asia/Tokyo")
        if schedules.put(conn, Schedule("s", "job", (Trigger.crontab("0 2 * * *"),), time_zone=zone))
    )
    assert first is not None
    assert second is not None
    assert (second - first) % timedelta(days=1) == timedelta(hours=15)


def test_ten_fleets_at_once_register_fifty_schedules_without_duplicates_or_deadlocks(database: Database) -> None:
    fleet(database)
    wanted = [
        Schedule(f"s{n:02}", "job", (HOURLY, Trigger.crontab("0 2 * * *"), Trigger.on("e")), declared=True)
        for n in range(50)
    ]
    gate = threading.Barrier(10)

    def register_all(shift: int) -> dict[str, str]:
        conn = database.connect()
        gate.wait(60)
        return dict(schedules.put_all(conn, wanted[shift:] + wanted[:shift]))

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(register_all, range(0, 50, 5)))
    for name in (schedule.name for schedule in wanted):
        assert sorted(answer[name] for answer in answers) == ["created", *["unchanged"] * 9]
    conn = database.connect()
    assert value(conn, "select count(*) from schedules") == 50
    assert value(conn, "select count(*) from triggers") == 150


def test_what_an_operator_disabled_stays_so_when_code_registers_it_anew(database: Database) -> None:
    conn = fleet(database)
    schedules.put(conn, Schedule("s", "job", (HOURLY,), declared=True))
    schedules.disable(conn, "s")
    assert schedules.put(conn, Schedule("s", "job", (HOURLY, Trigger.on("e")), declared=True)) == "changed"
    state = schedules.get(conn, "s")
    assert (state.enabled, state.next_due) == (False, None)
    assert column(conn, "select paused from triggers") == [True, True]
    assert schedules.put(conn, Schedule("s", "job", (HOURLY, Trigger.on("e")), enabled=True)) == "changed"
    assert schedules.get(conn, "s").next_due is not None


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (Schedule("a/b", "job"), "name must have"),
        (Schedule("", "job"), "name must have"),
        (Schedule("s", "job", time_zone="Nowhere"), "No time zone"),
        (Schedule("s", "job", (Trigger.crontab("61 * * * *"),)), "bad minute"),
        (Schedule("s", "job", (Trigger.once(at=datetime(2026, 1, 1)),)), "without a time zone"),  # noqa: DTZ001
        (Schedule("s", "job", (Trigger.interval(timedelta(0)),)), "every must be"),
        (Schedule("s", "job", (Trigger("interval"),)), "an interval needs every"),
        (Schedule("s", "job", (Trigger("once"),)), "once needs at or after"),
        (Schedule("s", "job", (Trigger.once(after=timedelta(seconds=-1)),)), "after must not be below 0"),
        (Schedule("s", "job", (Trigger.on("a/b"),)), "event must have"),
        (Schedule("s", "job", overlap="never"), "overlap must be"),  # type: ignore[arg-type]
        (Schedule("s", "job", catch_up="never"), "catch_up must be"),  # type: ignore[arg-type]
        (Schedule("s", "job", catch_up_limit=0), "catch_up_limit must be"),
        (Schedule("s", "job", max_retries=-1), "max_retries must be"),
        (Schedule("s", "job", timeout=timedelta(0)), "timeout must be"),
        (Schedule("s", "job", node="n", all_nodes=True), "exclude each other"),
    ],
)
def test_what_can_be_no_schedule_is_refused_in_words(database: Database, schedule: Schedule, words: str) -> None:
    conn = fleet(database)
    with pytest.raises(errors.InvalidTask, match=words):
        schedules.put_all(conn, [Schedule("before", "job"), schedule])
    assert value(conn, "select count(*) from schedules") == 0


def test_a_type_or_a_schedule_that_nobody_knows_is_refused(database: Database) -> None:
    conn = fleet(database)
    with pytest.raises(errors.UnknownType):
        schedules.put(conn, Schedule("s", "nonesuch"))
    calls: list[Any] = [schedules.get, schedules.remove, schedules.enable, schedules.disable, schedules.trigger]
    for call in [*calls, schedules.runs]:
        with pytest.raises(errors.ScheduleNotFound, match="nonesuch"):
            call(conn, "nonesuch")


def test_triggers_in_json_take_words_for_durations_and_no_months(database: Database) -> None:
    conn = fleet(database)
    put = "select put_schedule('s', 'job', triggers => %s)"
    conn.execute(put, ['[{"kind": "interval", "every": "1 day 30 seconds"}, {"kind": "once", "after": 60}]'])
    assert value(conn, "select extract(epoch from every) from triggers where kind = 'interval'") == 86430
    for bad in (
        '[{"kind": "interval", "every": "1 month"}]',
        '[{"kind": "interval", "every": "soon"}]',
        '[{"kind": "interval", "every": "infinity"}]',
        '[{"kind": "interval", "every": 1e300}]',
        '[{"kind": "once", "at": "soon"}]',
        '[{"kind": "once", "at": "infinity"}]',
        # What Postgres can store and clients can't read: one such time would take the whole list from them.
        '[{"kind": "once", "at": "20000-01-01T00:00:00Z"}]',
        '[{"kind": "once", "at": "0044-03-15 00:00:00 BC"}]',
        '[{"kind": "once", "after": "3000000 days"}]',
        '[{"kind": "interval", "every": 60, "due_at": "20000-01-01T00:00:00Z"}]',
        '[{"kind": "cron", "cron": "soon"}]',
        '[{"kind": "cron"}]',
        '[{"kind": "event", "event": "e", "every": 1}]',
        '[{"kind": "moon"}]',
        "[1]",
        "{}",
        "null",
    ):
        assert sqlstate(conn, put, bad) == "PF006", bad
    assert schedules.find(conn).total == 1


def test_schedules_are_read_whatever_styles_the_database_writes_times_and_intervals_in(database: Database) -> None:
    conn = fleet(database)
    schedules.put(conn, Schedule("s", "job", (HOURLY,), retry_delay=timedelta(minutes=1)))
    name = Identifier(conn.info.dbname)
    conn.execute(SQL("alter database {} set datestyle = 'SQL, DMY'").format(name))
    conn.execute(SQL("alter database {} set intervalstyle = 'iso_8601'").format(name))
    with db.connect(database.settings(), "test") as anew:
        assert schedules.get(anew, "s") == schedules.get(conn, "s")


def test_arrays_and_patterns_are_read_whatever_old_application_the_database_is_set_for(database: Database) -> None:
    conn = fleet(database)
    name = Identifier(conn.info.dbname)
    conn.execute(SQL("alter database {} set array_nulls = off").format(name))
    conn.execute(SQL("alter database {} set standard_conforming_strings = off").format(name))
    id = create(conn)
    with db.connect(database.settings(), "test") as anew:
        schedules.put(anew, Schedule("s", "job", (Trigger.crontab("0 2 * * *"),)))
        assert claim(anew) == [id]
        finish = sql.queries("workers")["finish"]
        assert value(anew, finish, WORKER, [id], [1], [None], [None], [None]) == []
    with database.connect() as foreign:
        assert value(foreign, "show standard_conforming_strings") == "off"
        triggers = json.dumps([{"kind": "cron", "cron": "0 2 * * *", "due_at": "2030-01-01T02:00:00Z"}])
        assert value(foreign, "select put_schedule('t', 'job', triggers => %s)", triggers) == "created"


# By hand


def test_a_run_by_hand_leaves_the_clock_alone_and_is_refused_while_one_is_unfinished(database: Database) -> None:
    conn = fleet(database)
    schedules.put(conn, Schedule("s", "job", (HOURLY,), data="d", priority=4, max_retries=2, created_by=9))
    clock = schedules.get(conn, "s").next_due
    id = schedules.trigger(conn, "s")
    assert schedules.get(conn, "s").next_due == clock
    row = conn.execute(
        "select data, priority, max_retries, created_by, schedule, due_at from tasks where id = %s", [id]
    )
    assert row.fetchone() == ("d", 4, 2, 9, "s", None)
    for step in ("fresh", "started"):
        assert value(conn, "select status from tasks where id = %s", id) == step
        with pytest.raises(errors.RunUnfinished, match='"s"'):
            schedules.trigger(conn, "s")
        claim(conn)
    conn.execute("select finish_tasks(%s, %s, '{1}', '{done}')", [WORKER, [id]])
    assert schedules.trigger(conn, "s") > id


def test_of_many_who_press_the_button_at_once_one_gets_a_run(database: Database) -> None:
    conn = fleet(database)
    schedules.put(conn, Schedule("s", "job"))
    gate = threading.Barrier(8)

    def press(_: int) -> str | None:
        mine = database.connect()
        gate.wait(60)
        return sqlstate(mine, "select trigger_schedule('s')")

    with ThreadPoolExecutor(8) as pool:
        assert sorted(map(str, pool.map(press, range(8)))) == ["None", *["PF008"] * 7]
    assert value(conn, "select count(*) from tasks") == 1


def test_a_removed_schedules_run_goes_on(database: Database) -> None:
    conn = fleet(database)
    schedules.put(conn, Schedule("s", "job", (HOURLY,)))
    schedules.trigger(conn, "s")
    schedules.remove(conn, "s")
    assert value(conn, "select count(*) from triggers") == 0
    settle(conn, "success")
    conn.execute("select end_runs()")
    assert value(conn, "select count(*) from run_ends") == 0
