"""The trigger scheduler while it runs: how many at once, start, stop and resume, what is added, removed, disabled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pgfleet import schedules, tasks
from pgfleet.errors import RunUnfinished, ScheduleNotFound
from pgfleet.settings import Settings
from pgfleet_worker.scheduler import (
    EventTrigger,
    OneTimeTrigger,
    Scheduler,
    Task,
)
from tests.support.database import Database
from tests.support.fleet import Connection, value
from tests.support.schedulers import Gate, schedulers

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


def test_no_more_run_at_once_than_the_maximum_and_the_rest_wait_their_turn_by_priority(
    make: Make, conn: Connection, wait_until: Wait
) -> None:
    gate = Gate()
    order: list[str] = []
    scheduler = make(max_running_tasks=2)
    scheduler.add_task(Task("first", function=gate))
    scheduler.add_task(Task("second", function=gate))
    for name, priority in (("low", 1), ("high", 9)):
        scheduler.add_task(Task(name, function=order.append, args=(name,), priority=priority))
    scheduler.start()
    for name in ("first", "second"):
        scheduler.trigger(name)
        assert gate.entered.acquire(timeout=40)
    for name in ("low", "high"):
        scheduler.trigger(name)
    assert scheduler.running_count == 2
    assert (order, tasks.find(conn).total) == ([], 4)
    gate.open(places=1)  # of the two places one: both wait for that
    wait_until(lambda: len(order) == 2)
    gate.open()
    wait_until(lambda: scheduler.running_count == 0)
    assert gate.most == 2
    assert order == ["high", "low"]


def test_a_maximum_of_the_whole_fleet_holds_over_two_schedulers(make: Make, conn: Connection, wait_until: Wait) -> None:
    conn.execute("select register_type('scheduler')")  # by an earlier one, which had no such maximum
    gate = Gate()
    both = [make(max_running_tasks=4, max_running_in_fleet=1) for _ in range(2)]
    for scheduler in both:
        for name in ("a", "b"):
            scheduler.add_task(Task(name, function=gate))
        scheduler.start()
    for name in ("a", "b"):
        both[0].trigger(name)
    assert gate.entered.acquire(timeout=40)
    assert value(conn, "select max_running from task_types where name = 'scheduler'") == 1
    assert sum(scheduler.running_count for scheduler in both) == 1
    gate.open()
    wait_until(lambda: tasks.find(conn, status=["success"]).total == 2)
    assert gate.most == 1


def test_a_stopped_scheduler_starts_nothing_and_goes_on_where_it_was(make: Make, conn: Connection) -> None:
    done = threading.Event()
    scheduler = make()
    task = Task("waits", function=done.set, triggers=[EventTrigger("e")])
    scheduler.add_task(task)
    scheduler.start()
    assert scheduler.running
    scheduler.stop()
    assert not scheduler.running
    assert value(conn, "select count(*) from workers") == 0
    assert scheduler.emit("e") == 1
    (run,) = tasks.find(conn).rows
    assert (run["status"], done.is_set()) == ("fresh", False)
    scheduler.resume()
    assert done.wait(40)


def test_stop_waits_for_what_runs(make: Make, wait_until: Wait) -> None:
    gate = Gate()
    scheduler = make()
    task = Task("slow", function=gate)
    scheduler.add_task(task)
    scheduler.start()
    scheduler.trigger("slow")
    assert gate.entered.acquire(timeout=40)
    stopping = threading.Thread(target=scheduler.stop)
    stopping.start()
    wait_until(lambda: not scheduler.running)
    assert stopping.is_alive()
    gate.open()
    stopping.join(40)
    assert not stopping.is_alive()
    assert [execution.results for execution in task.execution_history] == ["through"]


def test_tasks_are_added_to_and_removed_from_a_scheduler_that_runs(
    make: Make, conn: Connection, wait_until: Wait
) -> None:
    gate = Gate()
    scheduler = make(max_running_tasks=1)
    scheduler.start()
    scheduler.add_task(Task("busy", function=gate))
    ran = threading.Event()
    doomed = Task("doomed", function=ran.set)
    scheduler.add_task(doomed)
    scheduler.trigger("busy")
    assert gate.entered.acquire(timeout=40)
    run = scheduler.trigger("doomed")
    scheduler.remove_task("doomed")
    assert tasks.get(conn, run)["status"] == "cancelled"
    with pytest.raises(ScheduleNotFound):
        scheduler.trigger("doomed")
    with pytest.raises(ScheduleNotFound):
        scheduler.remove_task("doomed")
    gate.open()
    wait_until(lambda: tasks.find(conn, status=["success"]).total == 1)
    assert not ran.is_set()
    assert [task.id for task in scheduler.tasks] == ["busy"]


def test_a_disabled_task_runs_by_hand_alone(make: Make, conn: Connection, wait_until: Wait) -> None:
    task = Task("off", function=lambda: 1, triggers=[EventTrigger("e")], enabled=False)
    scheduler = make()
    scheduler.add_task(task)
    scheduler.start()
    assert scheduler.emit("e") == 0
    scheduler.trigger("off")
    wait_until(lambda: task.execution_history)
    scheduler.enable("off")
    assert (task.enabled, scheduler.emit("e")) == (True, 1)
    scheduler.disable("off")
    assert (task.enabled, scheduler.emit("e")) == (False, 0)


def test_what_an_operator_has_disabled_stays_so_when_the_program_starts_anew(make: Make, conn: Connection) -> None:
    before, after = make(), make()
    for scheduler in (before, after):
        scheduler.add_task(Task("sync", function=lambda: None, triggers=[EventTrigger("e")]))
    before.start()
    before.stop()
    schedules.disable(conn, "sync")
    after.start()
    assert not schedules.get(conn, "sync").enabled


def test_a_run_by_hand_is_refused_while_one_goes(make: Make) -> None:
    gate = Gate()
    scheduler = make()
    scheduler.add_task(Task("slow", function=gate))
    scheduler.start()
    scheduler.trigger("slow")
    with pytest.raises(RunUnfinished):
        scheduler.trigger("slow")
    gate.open()


def test_a_run_of_a_task_that_another_process_has_waits_for_it(make: Make, conn: Connection, wait_until: Wait) -> None:
    one, other = make(), make()
    task = Task("here", function=lambda: "done")
    one.add_task(task)
    one.start()
    one.stop()
    other.start()
    run = schedules.trigger(conn, "here")
    wait_until(lambda: tasks.get(conn, run)["status"] == "waiting")
    conn.execute("update tasks set run_at = now() where id = %s", [run])
    other.stop()
    one.resume()
    wait_until(lambda: task.execution_history)


def test_what_runs_in_memory_counts_for_the_maximum(make: Make, conn: Connection, wait_until: Wait) -> None:
    gate = Gate()
    scheduler = make(max_running_tasks=1)
    refresh = Task("refresh", function=gate, triggers=[OneTimeTrigger(delay=0.01)], persistent=False)
    scheduler.add_task(refresh)
    stored = Task("stored", function=gate)
    scheduler.add_task(stored)
    scheduler.start()
    assert gate.entered.acquire(timeout=40)
    scheduler.trigger("stored")
    wait_until(lambda: tasks.find(conn, status=["started"]).total == 1)
    assert not gate.entered.acquire(timeout=0.5)
    assert scheduler.running_count == 1
    gate.open()
    wait_until(lambda: stored.execution_history and refresh.execution_history)
    assert gate.most == 1
