"""Schedules in memory: run inside the process, seen in lists, gone with it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pgfleet import log, schedules
from pgfleet.settings import Settings
from pgfleet.workers import order_worker
from pgfleet_worker import Fleet, GiveUp, Release, RetryLater, Task
from pgfleet_worker.fleet import Declaration
from pgfleet_worker.memory import Memory
from tests.support.database import Database
from tests.support.fleet import Connection, register, value
from tests.support.processes import Processes
from tests.support.scheduled import Scheduled
from tests.support.workers import id_of

Wait = Callable[..., Any]
Start = Callable[..., Memory]


@pytest.fixture
def scheduled(processes: Processes, tmp_path: Path) -> Scheduled:
    return Scheduled(processes, tmp_path)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Runs schedules in this process."""
    made: list[Memory] = []

    def begin(*declarations: Declaration, most: int = 4) -> Memory:
        memory = Memory(Settings(export_dir=tmp_path), log.get(), declarations, most)
        made.append(memory)
        memory.start()
        return memory

    yield begin
    for memory in made:
        memory.stop()
        memory.cancel()


def told(conn: Connection) -> dict[str, Any]:
    """What the workers say of those they keep, by name."""
    return {row["schedule"]["name"]: row["schedule"] for row in schedules.in_memory(conn)}


def shown(memory: Memory) -> dict[str, Any]:
    (one,) = memory.shown()
    return one


def in_memory(name: str = "m") -> Any:
    return Fleet().schedule(name).in_memory()


def test_it_runs_in_its_process_stores_nothing_is_listed_and_gone_with_it(
    database: Database, scheduled: Scheduled, wait_until: Wait
) -> None:
    conn = database.connect()
    scheduled.module("""
        def refresh(): mark()
        async def fails(): raise RuntimeError("no cache")
        fleet.schedule("cache-refresh").in_memory().every(seconds=0.1).run(refresh).group("caches").register()
        fleet.schedule("Fails").in_memory().every(minutes=5).after(seconds=0).run(fails).register()
    """)
    process = scheduled.worker(settings=database.settings())
    wait_until(lambda: len(scheduled.marks()) >= 3)
    assert set(scheduled.marks()) == {process.pid}
    assert process.wait_for_event("memory.failed")["schedule"] == "Fails"
    wait_until(lambda: told(conn).get("cache-refresh", {}).get("runs", 0) >= 3)
    assert value(conn, "select count(*) from tasks") == schedules.find(conn, group="default").total == 0
    (one,) = (row for row in schedules.in_memory(conn) if row["schedule"]["name"] == "cache-refresh")
    assert (one["worker"], one["node"], one["schedule"]["group"]) == (id_of(process), "test-node", "caches")
    fails = told(conn)["Fails"]
    assert (fails["failures"], fails["successes"], fails["last_error"]) == (1, 0, "RuntimeError: no cache")
    assert datetime.fromisoformat(fails["next_due"]) > datetime.now(UTC) + timedelta(minutes=3)
    assert process.stop() == 0
    assert told(conn) == {}


def test_it_is_gone_with_a_worker_that_is_killed(database: Database, scheduled: Scheduled, wait_until: Wait) -> None:
    conn = database.connect()
    scheduled.module('fleet.schedule("m").in_memory().every(hours=1).run(mark).register()')
    process = scheduled.worker(settings=database.settings())
    wait_until(lambda: told(conn))
    process.kill()
    wait_until(lambda: told(conn) == {})


def test_it_rests_while_its_worker_is_paused_and_while_firing_is_stopped(
    database: Database, scheduled: Scheduled, wait_until: Wait
) -> None:
    conn = database.connect()
    scheduled.module("""
        fleet.schedule("m").in_memory().every(seconds=0.05).run(mark).register()
        fleet.schedule("stored").every(hours=1).run(mark).register()
    """)
    process = scheduled.worker(settings=database.settings())
    for rest, go_on in (
        (lambda: order_worker(conn, id_of(process), "pause"), lambda: order_worker(conn, id_of(process), "work")),
        (lambda: schedules.stop(conn), lambda: schedules.start(conn)),
    ):
        seen = len(scheduled.marks())
        wait_until(lambda seen=seen: len(scheduled.marks()) > seen)
        rest()
        wait_until(lambda: _is_still(scheduled), interval=0.3)
        seen = len(scheduled.marks())
        go_on()
        wait_until(lambda seen=seen: len(scheduled.marks()) > seen)


def _is_still(scheduled: Scheduled) -> bool:
    before = len(scheduled.marks())
    threading.Event().wait(0.5)  # ten times its interval
    return len(scheduled.marks()) == before


def test_a_worker_without_schedules_runs_none_in_memory(
    database: Database, scheduled: Scheduled, wait_until: Wait
) -> None:
    conn = database.connect()
    scheduled.module('fleet.schedule("m").in_memory().every(seconds=0.05).run(mark).register()')
    first = scheduled.worker("--no-schedules", settings=database.settings())
    second = scheduled.worker(settings=database.settings())
    wait_until(lambda: len(scheduled.marks()) > 10)
    assert set(scheduled.marks()) == {second.pid}
    wait_until(lambda: told(conn))
    assert {row["worker"] for row in schedules.in_memory(conn)} == {id_of(second)}
    assert first.stop() == 0


def test_a_run_that_goes_on_at_the_end_is_given_the_grace_and_then_called_off(
    database: Database, scheduled: Scheduled, wait_until: Wait
) -> None:
    scheduled.module("""
        @schedule("m", after=0, in_memory=True)
        def m(task):
            mark("begun")
            while not task.cancelled:
                time.sleep(0.01)
            mark("called-off")
    """)
    process = scheduled.worker(settings=database.settings(grace=0.2))
    wait_until(lambda: scheduled.marks("begun"))
    assert process.stop() == 0
    assert scheduled.marks("called-off") == [process.pid]


class Silent(Exception):
    def __str__(self) -> str:
        raise ValueError("a slip of its author")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("caf\udce9.csv\0"), r"ValueError: caf\udce9.csv\0"),
        (Silent(), "Silent, which can't be told"),
        (ValueError("long " * 2_000), "ValueError: long long "),
    ],
    ids=["surrogate", "silent", "long"],
)
def test_whatever_a_run_raises_is_told_as_postgres_can_hold_it(
    start: Start, wait_until: Wait, database: Database, error: Exception, told: str
) -> None:
    def fails() -> None:
        raise error

    memory = start(in_memory().every(seconds=600).after(seconds=0).run(fails).register())
    wait_until(lambda: shown(memory)["failures"] == 1)
    said = shown(memory)["last_error"]
    assert said.startswith(told)
    assert len(said) < 5_000
    conn = database.connect()
    schedules.declare(conn, register(conn), in_memory=memory.shown())


def test_a_due_time_while_it_runs_is_skipped(start: Start, wait_until: Wait) -> None:
    gate = threading.Event()
    memory = start(in_memory().every(seconds=0.02).run(lambda: gate.wait(60)).register())
    wait_until(lambda: shown(memory)["skipped"] >= 3)
    assert (shown(memory)["runs"], shown(memory)["running"], shown(memory)["last_skip_reason"]) == (1, 1, "overlap")
    gate.set()
    wait_until(lambda: shown(memory)["runs"] > 1)


def test_what_comes_only_once_is_not_skipped(start: Start, wait_until: Wait) -> None:
    gate = threading.Event()
    memory = start(in_memory().after(seconds=0).after(seconds=1).run(lambda: gate.wait(60)).register())
    wait_until(lambda: shown(memory)["runs"] == 1)
    wait_until(lambda: datetime.now(UTC) > shown(memory)["triggers"][1]["at"])
    assert shown(memory)["runs"] == 1
    gate.set()
    wait_until(lambda: shown(memory)["successes"] == 2)


def test_what_is_due_waits_for_room_and_the_higher_priority_goes_first(start: Start, wait_until: Wait) -> None:
    gate, order = threading.Event(), list[str]()
    first = Fleet().schedule("first").in_memory().after(seconds=0).run(lambda: gate.wait(60)).priority(9).register()
    rest = [
        Fleet()
        .schedule(f"p{priority}")
        .in_memory()
        .after(seconds=0.05)
        .run(lambda name=f"p{priority}": order.append(name))
        .priority(priority)
        .register()
        for priority in (1, 3, 2)
    ]
    memory = start(first, *rest, most=1)
    wait_until(lambda: all(datetime.now(UTC) > one["next_due"] for one in memory.shown()[1:]))
    assert order == []
    gate.set()
    wait_until(lambda: len(order) == 3)
    assert order == ["p3", "p2", "p1"]


@pytest.mark.parametrize(
    ("raises", "runs", "failures"),
    [
        (RuntimeError("broke"), 3, 3),
        (GiveUp("never"), 1, 1),
        (RetryLater("busy", seconds=0.01), 3, 3),
        (SystemExit(3), 3, 3),
    ],
    ids=repr,
)
def test_a_run_that_fails_is_tried_again_as_often_as_told(
    start: Start, wait_until: Wait, raises: BaseException, runs: int, failures: int
) -> None:
    attempts: list[int] = []

    def fails(task: Task) -> None:
        attempts.append(task.attempt)
        raise raises

    memory = start(in_memory().after(seconds=0).run(fails).retry(2, delay=0.01).register())
    wait_until(lambda: shown(memory)["next_due"] is None and not shown(memory)["running"])
    assert attempts == list(range(1, runs + 1))
    assert (shown(memory)["failures"], shown(memory)["last_status"]) == (failures, "failure")


def test_a_run_that_is_released_comes_again_and_has_not_failed(start: Start, wait_until: Wait) -> None:
    def waits(task: Task) -> None:
        if task.attempt < 3:
            raise Release(seconds=0.01)

    memory = start(in_memory().after(seconds=0).run(waits).register())
    wait_until(lambda: shown(memory)["successes"] == 1)
    assert (shown(memory)["runs"], shown(memory)["failures"]) == (3, 0)


def test_a_pause_of_fixed_length_begins_at_the_end_of_a_run(start: Start, wait_until: Wait) -> None:
    began: list[float] = []

    def run() -> None:
        began.append(datetime.now(UTC).timestamp())
        threading.Event().wait(0.1)

    memory = start(in_memory().every(seconds=0.1, fixed_delay=True).run(run).register())
    wait_until(lambda: len(began) >= 4)
    assert all(later - sooner >= 0.19 for sooner, later in itertools.pairwise(began))
    assert shown(memory)["skipped"] == 0


def test_cron_and_times_go_by_the_clock_on_the_wall(start: Start, wait_until: Wait) -> None:
    ran: list[str] = []
    soon = datetime.now(UTC) + timedelta(seconds=0.2)
    start(in_memory("at").at(soon).run(lambda: ran.append("at")).register())
    memory = start(in_memory("cron").cron("* * * * * *").run(lambda: ran.append("cron")).register())
    wait_until(lambda: {"at", "cron"} <= set(ran))
    assert shown(memory)["next_due"].microsecond // 10_000 in (0, 99)


def test_it_has_data_and_stores_no_checkpoint(start: Start, wait_until: Wait) -> None:
    def run(task: Task) -> None:
        assert task.data == {"a": 1}
        task.progress(1, 2)
        task.checkpoint(1)

    memory = start(in_memory().after(seconds=0).run(run, {"a": 1}).register())
    wait_until(lambda: shown(memory)["failures"] == 1)
    assert "checkpoint" in shown(memory)["last_error"]
