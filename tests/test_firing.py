"""Workers fire what is due: each due time once, through crowds, kills, pauses and outages."""

from __future__ import annotations

import itertools
import json
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pgfleet import schedules, tasks
from pgfleet.housekeeping import PURGE
from pgfleet.schedules import Schedule, Trigger
from pgfleet.settings import Duration
from pgfleet.workers import order_worker
from tests.support.database import Database
from tests.support.fleet import Connection, column, value
from tests.support.following import ended, register
from tests.support.processes import Processes
from tests.support.scheduled import Scheduled
from tests.support.workers import id_of, worker

Wait = Callable[..., Any]

SLOW = {"poll": 600, "lease": 600.0, "heartbeat": 150.0}


@pytest.fixture
def scheduled(processes: Processes, tmp_path: Path) -> Scheduled:
    return Scheduled(processes, tmp_path)


def runs(conn: Connection, name: str) -> list[dict[str, Any]]:
    return schedules.runs(conn, name, limit=1000).rows


def dues(conn: Connection, name: str) -> list[Any]:
    return column(conn, "select due_at from tasks where schedule = %s and due_at is not null order by id", name)


def steps(found: list[Any]) -> set[timedelta]:
    """The distances from each due time to the next: one, where none is missing and none there twice."""
    return {later - sooner for sooner, later in itertools.pairwise(found)}


def every(conn: Connection, name: str, seconds: float, **options: Any) -> None:
    trigger = Trigger.interval(timedelta(seconds=seconds), fixed_delay=options.pop("fixed_delay", False))
    schedules.put(conn, Schedule(name, "echo", (trigger,), **options))


def test_each_due_time_fires_once_with_three_workers(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    register(conn, "echo")
    for _ in range(3):
        worker(processes, "--types", "echo", settings=database.settings(**SLOW))
    every(conn, "tick", 0.2, overlap="allow", catch_up="all", catch_up_limit=1000)
    wait_until(lambda: len(dues(conn, "tick")) >= 15, timeout=60)
    schedules.stop(conn)
    found = dues(conn, "tick")
    assert len(set(found)) == len(found)
    assert steps(found) == {timedelta(seconds=0.2)}
    wait_until(lambda: {run["status"] for run in runs(conn, "tick")} == {"success"})
    assert all(run["created_at"] >= run["due_at"] for run in runs(conn, "tick"))


def test_a_worker_that_has_only_the_fleets_own_schedules_keeps_no_connection_and_hears_of_the_first_other(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    register(conn, "echo")
    worker(processes, "--types", "echo", settings=database.settings(**SLOW))
    sessions = (
        "select count(*) from pg_stat_activity"
        " where datname = current_database() and application_name = 'pgfleet firing'"
    )
    assert (schedules.find(conn, group="housekeeping").schedules[0].name, value(conn, sessions)) == (PURGE, 0)
    schedules.put(conn, Schedule("soon", "echo", (Trigger.once(after=timedelta()),), data=["now"]))
    row = wait_until(lambda: runs(conn, "soon"), timeout=40)[0]  # by itself it would look in 48 s at the earliest
    assert json.loads(wait_until(ended(conn, row["id"]), timeout=40)["result"])["data"] == ["now"]
    assert value(conn, sessions) == 1
    schedules.remove(conn, "soon")
    wait_until(lambda: value(conn, sessions) == 0, timeout=40)
    every(conn, "again", 0.1)
    wait_until(lambda: len(runs(conn, "again")) > 1, timeout=40)


def test_what_is_due_of_the_fleets_own_is_fired_by_a_look_now_and_then(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    worker(processes, "--types", "echo", settings=database.settings(**SLOW, keep_success=Duration(50)))
    sessions = "select pid, backend_start from pg_stat_activity where application_name = 'pgfleet firing'"
    conn.execute("update triggers set due_at = now() where schedule = %s", [PURGE])
    wait_until(lambda: {run["status"] for run in runs(conn, PURGE)} == {"success"}, timeout=40)
    wait_until(lambda: column(conn, f"{sessions} and datname = current_database()") == [], timeout=40)


def test_a_worker_that_hears_nothing_looks_by_itself(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    register(conn, "echo")
    worker(processes, "--types", "echo", "--no-listen", settings=database.settings(**SLOW))
    schedules.put(conn, Schedule("soon", "echo", (Trigger.once(after=timedelta()),)))
    wait_until(lambda: runs(conn, "soon"))


@pytest.mark.parametrize("how", [("--no-schedules",), ()], ids=["without-schedules", "paused"])
def test_a_worker_without_schedules_or_paused_fires_nothing(
    database: Database, processes: Processes, wait_until: Wait, how: tuple[str, ...]
) -> None:
    conn = database.connect()
    register(conn, "echo")
    first = worker(processes, "--types", "echo", *how, settings=database.settings(**SLOW))
    if not how:
        order_worker(conn, id_of(first), "pause")
        first.wait_for_event("worker.paused")
    schedules.put(conn, Schedule("soon", "echo", (Trigger.once(after=timedelta()),)))
    schedules.put(conn, Schedule("later", "echo", (Trigger.once(after=timedelta(seconds=1)),)))
    wait_until(lambda: value(conn, "select every(due_at < now()) from triggers where schedule in ('soon', 'later')"))
    assert runs(conn, "soon") == runs(conn, "later") == []
    if how:
        worker(processes, "--types", "echo", settings=database.settings(**SLOW))
    else:
        order_worker(conn, id_of(first), "work")
    wait_until(lambda: len(runs(conn, "soon")) == len(runs(conn, "later")) == 1)


def test_firing_stops_and_starts_for_the_whole_fleet(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    register(conn, "echo")
    worker(processes, "--types", "echo", settings=database.settings(**SLOW))
    every(conn, "tick", 0.1, overlap="allow")
    wait_until(lambda: len(runs(conn, "tick")) > 1)
    schedules.stop(conn)
    before = value(conn, "select max(due_at) from tasks")
    due = "select due_at + interval '0.5 s' < now() from triggers where schedule = 'tick'"
    wait_until(lambda: value(conn, due))
    assert value(conn, "select max(due_at) from tasks") == before
    schedules.start(conn)
    wait_until(lambda: value(conn, "select max(due_at) from tasks") > before + timedelta(seconds=0.4))


def test_an_owed_run_begins_when_the_one_before_ends(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    register(conn, "gated")
    worker(processes, "--types", "gated", settings=database.settings(**SLOW))
    gate = {"gate": str(tmp_path / "gate")}
    once = (Trigger.once(after=timedelta()), Trigger.once(after=timedelta(seconds=0.2)))
    schedules.put(conn, Schedule("queued", "gated", once, data=gate, overlap="queue"))
    wait_until(lambda: schedules.get(conn, "queued").owed == 1)
    assert len(runs(conn, "queued")) == 1
    (tmp_path / "gate").touch()
    wait_until(lambda: [run["status"] for run in runs(conn, "queued")] == ["success"] * 2)
    wait_until(lambda: (schedules.get(conn, "queued").owed, schedules.get(conn, "queued").successes) == (0, 2))


def test_a_pause_of_fixed_length_begins_at_the_runs_end(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    register(conn, "echo")
    worker(processes, "--types", "echo", settings=database.settings(**SLOW))
    every(conn, "rest", 0.1, fixed_delay=True)
    wait_until(lambda: len(runs(conn, "rest")) >= 4)
    found = runs(conn, "rest")[::-1]
    assert all(
        later["created_at"] - sooner["updated_on"] >= timedelta(seconds=0.1)
        for sooner, later in itertools.pairwise(found)
    )


def test_a_schedule_that_can_not_be_fired_keeps_no_other_back(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    register(conn, "echo", "gone")
    for n in range(3):
        every(conn, f"good {n}", 0.1, overlap="allow")
    schedules.put(conn, Schedule("bad cron", "echo", (Trigger.crontab("* * * * *"),)))
    schedules.put(conn, Schedule("bad type", "gone", (Trigger.once(after=timedelta()),), all_nodes=True))
    conn.execute("update triggers set cron = '99 * * * *', due_at = '-1 s'::interval + now() where cron is not null")
    conn.execute("delete from task_types where name = 'gone'")
    process = worker(processes, "--types", "echo", settings=database.settings(**SLOW))
    wait_until(lambda: all(len(runs(conn, f"good {n}")) >= 3 for n in range(3)))
    wait_until(lambda: {event["schedule"] for event in process.events("schedule.shelved")} == {"bad cron", "bad type"})
    assert "99" in schedules.get(conn, "bad cron").triggers[0].problem  # type: ignore[operator]


def test_a_schedule_whose_firing_takes_longer_than_an_answer_may_comes_through_and_lets_others(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    register(conn, "echo")
    conn.execute(
        "create function tarry() returns trigger language plpgsql as 'begin perform pg_sleep(4); return new; end';"
        "create trigger tarry before insert on tasks for each row when (new.schedule = 'slow') execute function tarry()"
    )
    for name in ("slow", "quick"):
        schedules.put(conn, Schedule(name, "echo", (Trigger.once(after=timedelta()),)))
    process = worker(processes, "--types", "echo", settings=database.settings(**SLOW, answer_timeout=3.0))
    wait_until(lambda: len(runs(conn, "slow")) == len(runs(conn, "quick")) == 1, timeout=60)
    assert process.events("firing.refused")


def test_what_is_due_at_once_fires_once_each_though_workers_are_killed(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    register(conn, "echo")
    fleet = [worker(processes, "--types", "echo", settings=database.settings(lease=30.0)) for _ in range(3)]
    conn.execute(
        "select put_schedule('s' || n, 'echo', triggers => jsonb_build_array(jsonb_build_object("
        "'kind', 'once', 'at', now() + interval '2 s'))) from generate_series(1, 300) n"
    )
    made = "select count(*) from tasks where schedule is not null"
    for process in fleet[:2]:
        wait_until(lambda: value(conn, made), interval=0.001)
        process.kill()
    wait_until(lambda: value(conn, made) >= 300, timeout=60)
    assert value(conn, "select count(distinct schedule) from tasks") == value(conn, made) == 300
    wait_until(lambda: value(conn, "select count(*) from tasks where status = 'success'") == 300, timeout=90)


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_worker_that_ends_between_due_and_commit_loses_and_doubles_nothing(
    database: Database, processes: Processes, wait_until: Wait, how: str
) -> None:
    conn = database.connect()
    register(conn, "echo")
    with database.connect(autocommit=False) as gate:
        gate.execute("lock table tasks in share mode")  # a firing worker gets as far as its first insert
        first = worker(processes, "--types", "echo", settings=database.settings(**SLOW))
        every(conn, "tick", 0.2, overlap="allow", catch_up="all", catch_up_limit=1000)
        waits = (
            "select count(*) from pg_stat_activity where application_name = 'pgfleet firing'"
            " and wait_event_type = 'Lock' and datname = current_database()"
        )
        wait_until(lambda: value(conn, waits) == 1)
        assert value(conn, "select count(*) from due_triggers()") == 0  # it holds them
        if how == "killed":
            first.kill()
        else:
            first.signal(signal.SIGTERM)
        # Its session would wait on for the lock; a server that is gone is noticed likewise, in 25 s.
        conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'pgfleet firing' and datname = current_database()"
        )
        gate.rollback()
    second = worker(processes, "--types", "echo", settings=database.settings(**SLOW))
    wait_until(lambda: len(dues(conn, "tick")) >= 10, timeout=60)
    schedules.stop(conn)
    found = dues(conn, "tick")
    assert steps(found) == {timedelta(seconds=0.2)}
    assert second.stop() == 0


def test_a_worker_that_stands_still_while_it_fires_keeps_the_others_back_for_seconds_only(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    register(conn, "echo")
    with database.connect(autocommit=False) as gate:
        gate.execute("lock table tasks in share mode")
        first = worker(processes, "--types", "echo", settings=database.settings(**SLOW))
        every(conn, "tick", 0.5, catch_up="all", overlap="allow", catch_up_limit=1000)
        held = (
            "select count(*) from pg_stat_activity where application_name = 'pgfleet firing'"
            " and (wait_event_type = 'Lock' or state = 'idle in transaction') and datname = current_database()"
        )
        wait_until(lambda: value(conn, held) == 1)
        first.signal(signal.SIGSTOP)
        gate.rollback()
    worker(processes, "--types", "echo", settings=database.settings(**SLOW))
    wait_until(lambda: len(dues(conn, "tick")) >= 10, timeout=60)
    first.signal(signal.SIGCONT)
    seen = len(dues(conn, "tick"))
    wait_until(lambda: len(dues(conn, "tick")) >= seen + 5, timeout=60)
    schedules.stop(conn)
    found = dues(conn, "tick")
    assert steps(found) == {timedelta(seconds=0.5)}


def test_postgres_restarts_across_due_times_and_each_is_fired_once(
    own_postgres: Any, away: Database, processes: Processes, wait_until: Wait
) -> None:
    here = away.settings(poll=600, lease=30.0)
    conn = away.connect()
    register(conn, "echo")
    fleet = [worker(processes, "--types", "echo", settings=here) for _ in range(2)]
    every(conn, "all", 0.5, overlap="allow", catch_up="all", catch_up_limit=1000)
    every(conn, "once", 0.5, overlap="allow")
    wait_until(lambda: len(dues(conn, "all")) >= 2)
    conn.close()
    own_postgres.stop()
    stopped = datetime.now(UTC)
    for process in fleet:
        process.wait_for_event("firing.waiting")
    wait_until(lambda: datetime.now(UTC) > stopped + timedelta(seconds=2))  # four due times
    own_postgres.start()
    conn = away.connect()
    back = value(conn, "select now()")
    wait_until(lambda: dues(conn, "all")[-1] > back + timedelta(seconds=1), timeout=60)
    schedules.stop(conn)
    found = dues(conn, "all")
    assert steps(found) == {timedelta(seconds=0.5)}
    some = dues(conn, "once")
    assert len(set(some)) == len(some) < len(found)
    for process in fleet:
        assert process.stop() == 0


def test_an_events_payload_reaches_the_handler(database: Database, processes: Processes, wait_until: Wait) -> None:
    conn = database.connect()
    register(conn, "echo")
    worker(processes, "--types", "echo", settings=database.settings(**SLOW))
    schedules.put(conn, Schedule("on import", "echo", (Trigger.on("library.imported"),), data={"all": True}))
    with conn.transaction(force_rollback=True):
        conn.execute("select emit_event('library.imported', '{\"books\": 1}')")
    assert value(conn, "select emit_event('library.imported', '{\"books\": 12}')") == 1
    row = wait_until(lambda: tasks.find(conn, status=["success"]).rows)[0]
    event = {"name": "library.imported", "payload": {"books": 12}}
    assert json.loads(row["result"])["data"] == {"all": True, "event": event}
    wait_until(lambda: schedules.get(conn, "on import").successes == 1)
