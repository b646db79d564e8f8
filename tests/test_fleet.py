"""Schedules in code: the builder, the mark, and what both refuse, with the name of the schedule and the way out."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pgfleet.errors import InvalidSchedule, SettingsError
from pgfleet.schedules import Trigger
from pgfleet_worker import Fleet, Task, handler, schedule
from pgfleet_worker.fleet import Builder
from pgfleet_worker.handler import load, load_schedules
from tests.support.scheduled import EXAMPLES

Module = Callable[[str, str], str]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Module]:
    """Writes a module that can be imported; answers its name."""
    monkeypatch.syspath_prepend(tmp_path)
    made: list[str] = []

    def make(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        made.append(name)
        return name

    yield make
    for name in made:
        sys.modules.pop(name, None)


def work(task: Task) -> None:
    """A function that takes its task."""


@handler("thumbnails")
def thumbnails(task: Task) -> None:
    """A marked handler."""


@handler("isolated", isolation="process")
def isolated(task: Task) -> None:
    """A handler in a process of its own."""


def test_the_three_examples_of_the_manual_are_found_in_a_module(module: Module) -> None:
    name = module("examples_of_the_manual", EXAMPLES)
    handlers = load([name])
    assert {"data-sync", "nightly"} <= set(handlers)
    assert "cache-refresh" not in handlers
    found = {one.schedule.name: one for one in load_schedules([name])}
    assert sorted(found) == ["cache-refresh", "data-sync", "nightly"]
    sync, nightly = found["data-sync"].stored, found["nightly"].stored
    assert (sync.type, sync.max_retries, sync.retry_delay, sync.declared) == (
        "data-sync",
        3,
        timedelta(minutes=1),
        True,
    )
    assert sync.triggers == (Trigger.interval(timedelta(hours=1)),)
    assert nightly.triggers == (Trigger.crontab("0 2 * * *"), Trigger.on("library.imported"))
    assert (nightly.time_zone, nightly.all_nodes) == ("Europe/Stockholm", True)
    assert [name for name, one in found.items() if one.in_memory] == ["cache-refresh"]
    task: Any = None
    assert handlers["data-sync"].function(task) == "synced"


def test_a_marked_handler_lends_its_type() -> None:
    made = Fleet().schedule("covers").every(minutes=1).run(thumbnails, {"all": True}).register()
    assert (made.stored.type, made.stored.data) == ("thumbnails", {"all": True})
    assert made.handler.function is thumbnails


def test_a_schedule_is_declared_beside_its_handler_in_either_order(module: Module) -> None:
    name = module(
        "marked_schedules",
        "from pgfleet_worker import handler, schedule\n"
        '@schedule("hourly covers", cron="@hourly", retry=2, retry_delay=5)\n'
        '@schedule("covers on import", on_event="library.imported", overlap="queue")\n'
        '@handler("covers")\n'
        "def covers(task): ...\n"
        '@handler("backs")\n'
        '@schedule("backs", every=60, on_node="here")\n'
        "def backs(task): ...\n"
        '@schedule("plain", after=1)\n'
        "async def plain(): return 7\n",
    )
    found = {one.schedule.name: one.stored for one in load_schedules([name])}
    assert {n: one.type for n, one in found.items()} == {
        "hourly covers": "covers",
        "covers on import": "covers",
        "backs": "backs",
        "plain": "plain",
    }
    assert found["hourly covers"].retry_delay == timedelta(seconds=5)
    handlers = load([name])
    assert {"covers", "backs", "plain"} <= set(handlers)
    assert handlers["plain"].is_async


def builders() -> dict[str, tuple[Callable[[Builder], Any], str]]:
    return {
        "no trigger": (lambda its: its.run(work), "no trigger"),
        "nothing to run": (lambda its: its.every(hours=1), "nothing to run"),
        "no function": (lambda its: its.every(hours=1).run("work"), "can't run 'work'"),
        "two functions": (lambda its: its.run(work).run(work), "two functions"),
        "memory on all nodes": (lambda its: its.in_memory().on_all_nodes().every(hours=1).run(work), "on_all_nodes"),
        "memory on a node": (lambda its: its.on_node("a").in_memory().every(hours=1).run(work), "on_node"),
        "memory on an event": (lambda its: its.in_memory().on_event("e").run(work), "on_event"),
        "memory that queues": (lambda its: its.in_memory().every(hours=1).overlap("queue").run(work), "overlap"),
        "memory that catches up": (lambda its: its.in_memory().every(hours=1).catch_up("all").run(work), "catch_up"),
        "memory in a process": (lambda its: its.in_memory().every(hours=1).run(isolated), "isolation"),
        "one node and all": (lambda its: its.on_node("a").on_all_nodes().every(hours=1).run(work), "on_node"),
        "bad cron": (lambda its: its.cron("61 * * * *").run(work), "61"),
        "unknown time zone": (lambda its: its.cron("@daily", tz="Mars/Olympus").run(work), "Mars/Olympus"),
        "two time zones": (lambda its: its.cron("@daily", tz="UTC").cron("@hourly", tz="Asia/Tokyo"), "two time zones"),
        "no length": (lambda its: its.every().run(work), "every"),
        "wrong unit": (lambda its: its.every(hour=1).run(work), "every"),
        "too often": (lambda its: its.every(milliseconds=1).run(work), "10 milliseconds"),
        "naive time": (lambda its: its.at(datetime(2030, 1, 1)).run(work), "time zone"),  # noqa: DTZ001
        "unknown overlap": (lambda its: its.every(hours=1).overlap("pile").run(work), "pile"),
        "catch up without bounds": (lambda its: its.every(hours=1).catch_up("all", limit=0).run(work), "limit 0"),
        "bad event": (lambda its: its.on_event(" ").run(work), "event"),
        "retries below 0": (lambda its: its.every(hours=1).run(work).retry(-1), "-1"),
        "half a retry": (lambda its: its.every(hours=1).run(work).retry(2.5), "2.5"),
        "priority in a text": (lambda its: its.in_memory().every(hours=1).run(work).priority("5"), "'5'"),
        "group of a number": (lambda its: its.every(hours=1).run(work).group(5), "group 5"),
        "data that JSON can't say": (lambda its: its.every(hours=1).run(work, data={1, 2}), "set"),
        "two arguments": (lambda its: its.every(hours=1).run(lambda a, b: None), "one Task, or nothing"),
    }


@pytest.mark.parametrize("case", builders())
def test_a_contradiction_is_refused_with_the_schedules_name(case: str) -> None:
    make, says = builders()[case]
    with pytest.raises(InvalidSchedule, match='"odd"') as refused:
        make(Fleet().schedule("odd")).register()
    assert says in str(refused.value)
    assert refused.value.hint


def test_a_second_schedule_of_a_name_is_refused(module: Module) -> None:
    fleet = Fleet()
    fleet.schedule("twice").every(hours=1).run(work).register()
    with pytest.raises(InvalidSchedule, match='"twice" stands twice'):
        fleet.schedule("twice")
    source = 'from pgfleet_worker import schedule\n@schedule("twice", every=1)\ndef twice(): ...\n'
    names = [module("first_module", source), module("second_module", source)]
    with pytest.raises(InvalidSchedule, match='"twice" is declared twice'):
        load_schedules(names)


def test_a_schedule_that_was_begun_and_not_registered_is_refused(module: Module) -> None:
    name = module(
        "forgotten",
        'from pgfleet_worker import Fleet\nfleet = Fleet()\nfleet.schedule("f").every(hours=1).run(print)\n',
    )
    with pytest.raises(InvalidSchedule, match='"f" was begun but not registered'):
        load_schedules([name])


def test_a_name_that_is_no_type_needs_a_marked_handler() -> None:
    with pytest.raises(InvalidSchedule, match="Nightly Run"):
        Fleet().schedule("Nightly Run").every(hours=1).run(work).register()
    assert Fleet().schedule("Nightly Run").every(hours=1).run(thumbnails).register().handler.type == "thumbnails"


def test_a_function_and_a_schedule_that_both_want_a_type_are_refused(module: Module) -> None:
    name = module(
        "both",
        "from pgfleet_worker import Fleet, handler\nfleet = Fleet()\n"
        '@handler("covers")\ndef one(task): ...\ndef other(task): ...\n'
        'fleet.schedule("covers").every(hours=1).run(other).register()\n',
    )
    with pytest.raises(InvalidSchedule, match='"covers" and another function'):
        load([name])


def test_a_module_with_a_schedule_in_memory_needs_no_handler(module: Module) -> None:
    name = module(
        "only_memory", 'from pgfleet_worker import schedule\n@schedule("m", every=1, in_memory=True)\ndef m(): ...\n'
    )
    assert "m" not in load([name])
    with pytest.raises(SettingsError, match="holds no handler"):
        load([module("nothing_at_all", "")])


def test_the_mark_refuses_what_the_builder_refuses() -> None:
    with pytest.raises(InvalidSchedule, match='"odd" has no trigger'):
        schedule("odd")(work)
