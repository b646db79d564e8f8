"""The trigger scheduler, as a library: the words of its design, replayed against a real Postgres."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pgfleet import schedules, tasks
from pgfleet.errors import InvalidSchedule
from pgfleet.schedules import Schedule
from pgfleet.settings import Settings
from pgfleet_worker.scheduler import (
    Event,
    EventTrigger,
    OneTimeTrigger,
    PeriodicTrigger,
    RetryPolicy,
    Scheduler,
    Status,
    Task,
)
from tests.support.database import Database, environment
from tests.support.fleet import Connection, register, value
from tests.support.schedulers import schedulers

Wait = Callable[..., Any]
Make = Callable[..., Scheduler]


@pytest.fixture
def make(settings: Settings) -> Iterator[Make]:
    """Makes schedulers; they are stopped at the end."""
    with schedulers(settings) as make:
        yield make


@pytest.fixture
def conn(database: Database) -> Connection:
    return database.connect()


def test_a_task_has_the_words_of_the_design(make: Make, conn: Connection, wait_until: Wait) -> None:
    def sync(*args: Any) -> None: ...

    task = Task(
        "data-sync",
        name="Data sync",
        description="Brings the books up to date.",
        triggers=[
            PeriodicTrigger(interval=3600),
            PeriodicTrigger(cron="0 2 * * *"),
            EventTrigger("library.imported"),
            OneTimeTrigger(delay=timedelta(days=1)),
            OneTimeTrigger(at=datetime(2999, 1, 1, tzinfo=UTC)),
        ],
        function=sync,
        args=("books",),
        retry_policy=RetryPolicy(max_retries=3, delay=60),
        enabled=True,
        priority=5,
        time_zone="Europe/Stockholm",
    )
    scheduler = make(max_running_tasks=4)
    scheduler.add_task(task)
    scheduler.start()
    stored = schedules.get(conn, "data-sync")
    assert (stored.type, stored.group, stored.priority, stored.enabled) == ("scheduler", "scheduler", 5, True)
    assert (stored.max_retries, stored.retry_delay) == (3, timedelta(seconds=60))
    assert stored.description == "Data sync: Brings the books up to date."
    assert [trigger.kind for trigger in stored.triggers] == ["interval", "cron", "event", "once", "once"]
    assert (scheduler.tasks, task.execution_history, scheduler.running_count) == ([task], [], 0)
    wait_until(lambda: value(conn, "select concurrency from workers") == scheduler.max_running_tasks == 4)


def test_a_periodic_task_runs_again_and_again_with_its_arguments(make: Make, wait_until: Wait) -> None:
    def add(one: int, other: int, *, more: int) -> int:
        return one + other + more

    task = Task("sum", function=add, args=(1, 2), kwargs={"more": 3}, triggers=[PeriodicTrigger(interval=0.2)])
    scheduler = make()
    scheduler.add_task(task)
    scheduler.start()
    wait_until(lambda: len(task.execution_history) >= 3)
    for execution in task.execution_history:
        assert (execution.status, execution.results, execution.error) == (Status.SUCCESS, 6, None)
        assert (execution.event, execution.attempt) == (None, 1)
        assert execution.started <= execution.ended
    runs = [execution.run for execution in task.execution_history]
    assert runs == sorted(set(runs), reverse=True)


def test_an_event_runs_its_tasks_and_its_payload_reaches_them(make: Make, wait_until: Wait) -> None:
    seen: list[Event | None] = []

    def imported(event: Event | None) -> int:
        seen.append(event)
        return len(seen)

    told = Task("told", function=imported, triggers=[EventTrigger("library.imported")], with_event=True)
    untold = Task("untold", function=lambda: "done", triggers=[EventTrigger("library.imported")])
    scheduler = make()
    scheduler.add_task(told)
    scheduler.add_task(untold)
    scheduler.start()
    assert scheduler.emit("library.imported", {"books": 3}) == 2
    assert scheduler.emit("nobody.waits") == 0
    (execution,) = wait_until(lambda: told.execution_history)
    assert seen == [Event("library.imported", {"books": 3})]
    assert (execution.event, execution.results) == (Event("library.imported", {"books": 3}), 1)
    (other,) = wait_until(lambda: untold.execution_history)
    assert (other.event, other.results) == (Event("library.imported", {"books": 3}), "done")


def test_a_one_time_task_runs_once_after_its_delay(make: Make, conn: Connection, wait_until: Wait) -> None:
    task = Task("once", function=lambda: None, triggers=[OneTimeTrigger(delay=0.3)])
    scheduler = make()
    scheduler.add_task(task)
    scheduler.start()
    (execution,) = wait_until(lambda: task.execution_history)
    (trigger,) = schedules.get(conn, "once").triggers
    assert trigger.done_at is not None
    assert trigger.at is not None
    assert execution.started >= trigger.at
    scheduler.stop()
    scheduler.resume()  # says the same again, and starts nothing by that
    assert schedules.get(conn, "once").next_due is None
    assert tasks.find(conn).total == 1


def test_a_failed_run_is_tried_again_by_the_retry_policy_and_both_stand_in_the_history(
    make: Make, wait_until: Wait
) -> None:
    attempts: list[float] = []

    def flaky() -> str:
        attempts.append(time.monotonic())
        if len(attempts) == 1:
            raise ValueError("no such shelf")
        return "found"

    task = Task("flaky", function=flaky, retry_policy=RetryPolicy(max_retries=1, delay=0.2))
    scheduler = make()
    scheduler.add_task(task)
    scheduler.start()
    run = scheduler.trigger("flaky")
    second, first = wait_until(lambda: len(task.execution_history) == 2 and task.execution_history)
    assert (first.run, first.attempt, first.status, first.results) == (run, 1, "FAILED", None)
    assert first.error == "ValueError: no such shelf"
    assert (second.run, second.attempt, second.status, second.results) == (run, 2, "SUCCESS", "found")
    assert second.error is None
    assert attempts[1] - attempts[0] >= 0.1  # the delay, less its spread


def test_without_a_retry_policy_a_failure_is_final(make: Make, conn: Connection, wait_until: Wait) -> None:
    def broken() -> None:
        raise KeyError("x")

    task = Task("broken", function=broken)
    scheduler = make()
    scheduler.add_task(task)
    scheduler.start()
    run = scheduler.trigger("broken")
    (execution,) = wait_until(lambda: task.execution_history)
    assert (execution.status, execution.error) == (Status.FAILED, "KeyError: 'x'")
    assert tasks.get(conn, run)["status"] == "failure"
    wait_until(lambda: schedules.get(conn, "broken").failures == 1)


def test_each_execution_tells_what_it_cost(make: Make, wait_until: Wait) -> None:
    def hungry() -> int:
        until = time.thread_time() + 0.05
        while time.thread_time() < until:
            pass
        return len(bytearray(64 * 1024 * 1024))

    def broken() -> None:
        hungry()
        raise ValueError

    scheduler = make()
    both = [Task("hungry", function=hungry), Task("broken", function=broken)]
    for task in both:
        scheduler.add_task(task)
    scheduler.start()
    for task in both:
        scheduler.trigger(task.id)
        (execution,) = wait_until(lambda task=task: task.execution_history)
        assert execution.cpu_seconds is not None
        assert 0.05 <= execution.cpu_seconds < 10
        assert execution.peak_memory is None or execution.peak_memory > 64 * 1024 * 1024


def test_a_coroutine_is_awaited(make: Make, wait_until: Wait) -> None:
    async def answer() -> int:
        return 42

    task = Task("async", function=answer)
    scheduler = make()
    scheduler.add_task(task)
    scheduler.start()
    scheduler.trigger("async")
    (execution,) = wait_until(lambda: task.execution_history)
    assert execution.results == 42


def test_what_is_not_persistent_runs_in_this_process_and_leaves_nothing_behind(
    make: Make, conn: Connection, wait_until: Wait, run: Callable[..., Any]
) -> None:
    def refresh() -> int:
        if not task.execution_history:
            raise LookupError("the shelf is bare")
        return 7

    task = Task("cache", function=refresh, triggers=[PeriodicTrigger(interval=0.2)], persistent=False)
    scheduler = make()
    scheduler.add_task(task)
    scheduler.start()
    wait_until(lambda: len(task.execution_history) >= 2)
    second, first = task.execution_history[-2:]
    assert (first.status, first.error, first.results) == (Status.FAILED, "LookupError: the shelf is bare", None)
    assert (second.status, second.error, second.results) == (Status.SUCCESS, None, 7)
    assert (first.run, first.cpu_seconds is not None) == (0, True)
    wait_until(lambda: [row["schedule"]["name"] for row in schedules.in_memory(conn)] == ["cache"])
    assert (schedules.find(conn, group="default").total, tasks.find(conn).total) == (0, 0)
    head, line = run("tasks", "list").stdout.splitlines()
    row = dict(zip(head.split("\t"), line.split("\t"), strict=True))
    assert (row["ID"], row["Persistent"], row["Next Run"] != "") == ("cache", "Memory", True)
    head, *lines = run("schedules", "list").stdout.splitlines()
    (line,) = (line for line in lines if line.startswith("cache\t"))
    row = dict(zip(head.split("\t"), line.split("\t"), strict=True))
    assert (row["name"], row["storage"], row["triggers"], row["enabled"]) == ("cache", "Memory", "every 0.2s", "yes")
    with pytest.raises(InvalidSchedule, match="its triggers alone start it"):
        scheduler.trigger("cache")
    with pytest.raises(ValueError, match="before the scheduler is started"):
        scheduler.add_task(Task("late", function=refresh, persistent=False))
    scheduler.stop()
    scheduler.remove_task("cache")
    assert (scheduler.tasks, schedules.in_memory(conn)) == ([], [])


@pytest.mark.parametrize(
    "wrong",
    [
        {"triggers": [PeriodicTrigger()]},
        {"triggers": [PeriodicTrigger(interval=1, cron="@hourly")]},
        {"triggers": [PeriodicTrigger(cron="@fortnightly")]},
        {"triggers": [OneTimeTrigger()]},
        {"triggers": [OneTimeTrigger(at=datetime(2999, 1, 1))]},  # noqa: DTZ001 - which is what is wrong
        {"time_zone": "Mars/Olympus"},
        {"triggers": [EventTrigger("e")], "persistent": False},
        {"timeout": 1.0, "persistent": False},
    ],
)
def test_what_a_task_can_not_be_is_refused_when_it_is_added(make: Make, wrong: dict[str, Any]) -> None:
    scheduler = make()
    with pytest.raises(InvalidSchedule):
        scheduler.add_task(Task("x", function=print, **wrong))
    assert scheduler.tasks == []


def test_neither_a_second_task_of_an_id_nor_somebody_elses_schedule_is_taken_over(make: Make, conn: Connection) -> None:
    register(conn)
    conn.execute("select register_type('job')")
    schedules.put(conn, Schedule("theirs", "job"))
    scheduler = make()
    scheduler.add_task(Task("x", function=print))
    with pytest.raises(ValueError, match="has been added already"):
        scheduler.add_task(Task("x", function=print))
    scheduler.start()
    with pytest.raises(InvalidSchedule, match="makes tasks of type job"):
        scheduler.add_task(Task("theirs", function=print))
    assert schedules.get(conn, "theirs").type == "job"
    assert [task.id for task in scheduler.tasks] == ["x"]


def test_the_example_of_the_page_does_what_it_says(settings: Settings, conn: Connection, tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "worker" / "SCHEDULER.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    file = tmp_path / "sync.py"
    file.write_text(example, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, file], env=environment(settings), capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "imported: {'books': 3}" in lines
    assert any(line.startswith("SUCCESS {'fiction': 3} 0:0") for line in lines)
    assert value(conn, "select count(*) from workers") == 0
