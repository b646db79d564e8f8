"""What a worker does with the schedules of its code at its start, and what becomes of them when the code changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pgfleet import schedules, tasks
from pgfleet.housekeeping import PURGE, SWEEP
from pgfleet.schedules import Trigger
from tests.support.database import Database
from tests.support.fleet import column, value
from tests.support.following import ended, register
from tests.support.processes import Processes
from tests.support.scheduled import EXAMPLES, Scheduled
from tests.support.workers import id_of

Wait = Callable[..., Any]


@pytest.fixture
def scheduled(processes: Processes, tmp_path: Path) -> Scheduled:
    return Scheduled(processes, tmp_path)


def test_the_three_examples_of_the_manual_do_what_they_say(
    database: Database, scheduled: Scheduled, wait_until: Wait
) -> None:
    conn = database.connect()
    scheduled.module(EXAMPLES)
    fleet = [scheduled.worker(settings=database.settings(node=node)) for node in ("here", "there")]
    assert [one.name for one in schedules.find(conn, group="default").schedules] == ["data-sync", "nightly"]
    sync, nightly = schedules.get(conn, "data-sync"), schedules.get(conn, "nightly")
    assert (sync.type, sync.max_retries, sync.retry_delay) == ("data-sync", 3, timedelta(minutes=1))
    assert sync.next_due is not None
    assert sync.next_due - sync.created_at == timedelta(hours=1)
    assert (sync.declared, sync.stale, sync.enabled, nightly.stale) == (True, False, True, False)
    assert (nightly.time_zone, nightly.all_nodes, len(nightly.triggers)) == ("Europe/Stockholm", True, 2)
    wait_until(lambda: {row["worker"] for row in schedules.in_memory(conn)} == {id_of(one) for one in fleet})

    run = tasks.get(conn, schedules.trigger(conn, "data-sync"))
    row = wait_until(ended(conn, run["id"]))
    assert (row["status"], json.loads(row["result"]), row["schedule"]) == ("success", "synced", "data-sync")

    assert schedules.emit(conn, "library.imported", {"books": 3}) == 1
    parent = wait_until(lambda: schedules.runs(conn, "nightly").rows)[0]["id"]
    assert wait_until(ended(conn, parent))["status"] == "success"
    parts = column(
        conn, "select (node, result::jsonb #>> '{event,payload,books}')::text from tasks where parent = %s", parent
    )
    assert sorted(parts) == ["(here,3)", "(there,3)"]
    for one in fleet:
        assert one.stop() == 0


def test_a_restart_changes_nothing_and_leaves_what_an_operator_disabled(
    database: Database, scheduled: Scheduled
) -> None:
    conn = database.connect()
    scheduled.module("""
        @schedule("hourly", every=3600)
        def hourly(): ...
        @schedule("by-hand", every=3600)
        def other(): ...
    """)
    assert scheduled.worker(settings=database.settings()).stop() == 0
    schedules.disable(conn, "by-hand")
    before = [schedules.get(conn, name) for name in ("hourly", "by-hand")]
    again = scheduled.worker(settings=database.settings())
    assert again.stop() == 0
    assert [schedules.get(conn, name) for name in ("hourly", "by-hand")] == before
    assert not before[1].enabled
    assert again.events("schedule.registered") == []


def test_new_code_changes_a_schedule_in_place(database: Database, scheduled: Scheduled) -> None:
    conn = database.connect()
    for version, line in enumerate(('every=3600, on_event="e"', 'every=60, on_event="e", group="new"')):
        name = scheduled.module(f'@schedule("changes", {line})\ndef changes(): ...', f"version{version}")
        assert scheduled.worker(name=name, settings=database.settings()).stop() == 0
    found = schedules.get(conn, "changes")
    assert found.group == "new"
    assert [(one.every, one.event) for one in found.triggers] == [(None, "e"), (timedelta(minutes=1), None)]


def test_a_schedule_that_left_the_code_is_shown_as_stale_and_stays(database: Database, scheduled: Scheduled) -> None:
    conn = database.connect()
    old = scheduled.module('fleet.schedule("old").every(hours=1).run(mark).register()', "old_code")
    new = scheduled.module('fleet.schedule("new").every(hours=1).run(mark).register()', "new_code")
    first = scheduled.worker(name=old, settings=database.settings())
    schedules.put(conn, schedules.Schedule("by hand", "old", (Trigger.on("e"),)))
    second = scheduled.worker(name=new, settings=database.settings())

    def stale() -> list[str]:
        return [one.name for one in schedules.find(conn).schedules if one.stale]

    assert stale() == []
    assert first.stop() == 0
    assert stale() == ["old"]
    assert second.stop() == 0
    assert stale() == []  # nobody lives to say so
    assert schedules.find(conn, group="default").total == 3


def test_a_worker_of_other_types_declares_all_that_its_code_has(
    database: Database, scheduled: Scheduled, wait_until: Wait
) -> None:
    conn = database.connect()
    scheduled.module("""
        @handler("mine")
        def mine(task): ...
        fleet.schedule("others").after(seconds=0).run(mark).register()
    """)
    scheduled.worker("--types", "mine", settings=database.settings())
    run = wait_until(lambda: schedules.runs(conn, "others").rows)[0]
    assert (run["type"], run["status"]) == ("others", "fresh")
    assert not schedules.get(conn, "others").stale
    scheduled.worker(settings=database.settings())
    assert wait_until(ended(conn, run["id"]))["status"] == "success"


def test_a_lost_worker_declares_anew_and_brings_nothing_back_that_was_removed(
    database: Database, scheduled: Scheduled, wait_until: Wait
) -> None:
    conn = database.connect()
    scheduled.module("""
        for name in ("kept", "removed"):
            fleet.schedule(name).every(hours=1).run(lambda: None).register()
    """)
    process = scheduled.worker(settings=database.settings())
    schedules.remove(conn, "removed")
    first = id_of(process)
    conn.execute("update workers set lease_expires_at = '-infinity', lost_at = now() where id = %s", (first,))
    wait_until(lambda: id_of(process) != first)
    declares = "select declares from workers where lost_at is null and id = %s"
    wait_until(lambda: value(conn, declares, id_of(process)) == ["kept", PURGE, SWEEP, "removed"])
    assert [one.name for one in schedules.find(conn, group="default").schedules] == ["kept"]
    assert not schedules.get(conn, "kept").stale


def test_ten_workers_that_start_at_once_register_fifty_schedules_without_duplicates_or_deadlock(
    database: Database, scheduled: Scheduled, wait_until: Wait
) -> None:
    conn = database.connect()
    register(conn, "job")
    # Each its own order, and one that is due: firing locks what registration locks.
    scheduled.module("""
        import random
        @handler("job")
        def job(task): ...
        numbers = list(range(50))
        random.shuffle(numbers)
        for n in numbers:
            fleet.schedule(f"s{n:02}").every(seconds=0.2).cron("0 0 1 1 *").on_event("e").run(job).register()
    """)
    before = value(conn, "select deadlocks from pg_stat_database where datname = current_database()")
    fleet = [scheduled.start("--concurrency", "2", settings=database.settings(lease=60.0)) for _ in range(10)]
    for process in fleet:
        process.wait_for_event("worker.registered", timeout=120)
    assert schedules.find(conn, group="default", limit=100).total == 50
    assert value(conn, "select count(*) from triggers where not starts_with(schedule, 'pgfleet.')") == 150
    assert value(conn, "select count(*) from workers where lost_at is null and cardinality(declares) = 52") == 10
    created = [event for process in fleet for event in process.events("schedule.registered")]
    assert sorted(event["schedule"] for event in created if event["what"] == "created") == [
        PURGE,
        SWEEP,
        *(f"s{n:02}" for n in range(50)),
    ]
    assert [event for event in created if event["what"] != "created"] == []
    wait_until(lambda: value(conn, "select count(distinct schedule) from tasks") == 50, timeout=60)
    schedules.stop(conn)
    conn.execute("select pg_stat_force_next_flush()")
    assert value(conn, "select deadlocks from pg_stat_database where datname = current_database()") == before
    assert [line for process in fleet for line in process.text().splitlines() if "deadlock" in line] == []


def test_a_mistake_in_the_code_ends_the_worker_with_words(database: Database, scheduled: Scheduled) -> None:
    scheduled.module('fleet.schedule("odd").in_memory().on_all_nodes().every(hours=1).run(mark).register()')
    process = scheduled.start(settings=database.settings())
    assert process.wait(60) == 1
    assert '"odd" is in_memory and has on_all_nodes' in process.text()
    assert "Traceback" not in process.text()
