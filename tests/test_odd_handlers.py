"""Handlers that are written oddly: they cost themselves, not their worker, and what can't be is said at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pgfleet import tasks
from pgfleet.errors import SettingsError
from pgfleet_worker import GiveUp, Release, RetryLater, Task, handler
from pgfleet_worker.handler import load
from tests.support.database import Database
from tests.support.following import ended
from tests.support.processes import Processes
from tests.support.workers import worker

Wait = Callable[..., Any]
Module = Callable[[str, str], str]
ODD = ("--handlers", "tests.support.odd")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Module:
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, text: str) -> str:
        (tmp_path / f"odd_{tmp_path.name}_{name}.py").write_text(text)
        return f"odd_{tmp_path.name}_{name}"

    return write


@pytest.mark.parametrize("type", ["forks", "forks_async", "forks_apart"])
def test_a_fork_ends_with_its_handlers_call_and_runs_nothing_else(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path, type: str
) -> None:
    conn, file = database.connect(), tmp_path / "forks"
    ways = ["exit", "raise", "return"]
    process = worker(processes, "--concurrency", "1", handlers=ODD)
    data = {"ways": ways, "file": str(file)}
    ids = tasks.create_many(conn, type, [data, {"ways": [], "file": ""}, data], created_by=1)
    rows = [wait_until(ended(conn, id)) for id in ids]
    assert [json.loads(row["result"]) for row in rows] == [[7, 1, 0], [], [7, 1, 0]]
    assert [row["attempt"] for row in rows] == [1, 1, 1]
    assert file.read_text().split() == ways * 2
    assert process.stop() == 0


def test_a_handler_that_stops_the_event_loop_stops_nobody(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    worker(processes, handlers=ODD)
    for id in tasks.create_many(conn, "stops_the_loop", [None] * 3, created_by=1):
        assert json.loads(wait_until(ended(conn, id))["result"]) == "went on"


@pytest.mark.parametrize("type", ["wrapped", "wrapped_async"])
def test_a_decorator_above_the_mark_is_run(
    database: Database, processes: Processes, wait_until: Wait, type: str
) -> None:
    conn = database.connect()
    worker(processes, handlers=ODD)
    ids = [tasks.create(conn, type, created_by=1) for _ in range(2)]
    assert sorted(json.loads(wait_until(ended(conn, id))["result"]) for id in ids) == [1, 2]


def test_what_can_not_be_told_of_is_a_failure(database: Database, processes: Processes, wait_until: Wait) -> None:
    conn = database.connect()
    worker(processes, handlers=ODD)
    for type, said in (("comes_back_at_no_time", "not nan"), ("exports_nonsense", "can't be told in JSON")):
        row = wait_until(ended(conn, tasks.create(conn, type, created_by=1)))
        assert row["status"] == "failure"
        assert said in row["error_detail"]


def test_seconds_that_are_no_number_are_refused() -> None:
    for seconds in ("soon", None, float("nan")):
        for kind in (partial(RetryLater, "x"), partial(Release, "x")):
            with pytest.raises(TypeError, match="as a number"):
                kind(seconds=seconds)  # type: ignore[arg-type]
    assert Release(seconds=float("inf")).seconds == 365 * 86_400
    assert str(GiveUp()) == "The task can't be done."


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"type": "Resize!"}, "type='Resize!'"),
        ({"type": "x" * 101}, "100 at most"),
        ({"type": lambda task: None}, "expected a name"),  # `@handler` without its parentheses
        ({"max_retries": -1}, "max_retries=-1"),
        ({"max_retries": 1001}, "expected 0 to 1000"),
        ({"retry_delay": -1}, "retry_delay=-1"),
        ({"retry_delay": float("nan")}, "retry_delay=nan"),
        ({"retry_delay": 4e7}, "at most a year"),
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": float("inf")}, "timeout=inf"),
        ({"max_running": 0}, "max_running=0"),
    ],
)
def test_a_mark_that_can_not_be_is_refused_where_it_stands(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        handler(**{"type": "fine", **options})


def test_what_can_not_be_marked_is_refused() -> None:
    def one(task: Task) -> None: ...

    handler("first")(one)
    with pytest.raises(ValueError, match="is the handler of first already"):
        handler("second")(one)
    with pytest.raises(ValueError, match="can't be marked"):
        handler("third")(print)


def test_two_functions_for_one_type_in_one_module_are_refused(module: Module) -> None:
    text = "from pgfleet_worker import handler\n@handler('resize')\ndef one(task): ...\n"
    text += "@handler('resize')\ndef two(task): ...\n"
    with pytest.raises(SettingsError, match=r"marks two functions for resize: .*one.*two"):
        load([module("twice", text)])


def test_of_two_modules_the_later_one_has_the_type_and_an_alias_is_no_second(module: Module) -> None:
    text = "from pgfleet_worker import handler\n@handler('resize')\ndef one(task): ...\n"
    first, second = module("first", text), module("second", f"{text}alias = one\n")
    assert load([first, second])["resize"].function.__module__ == second
    third = module("third", f"from {first} import one as theirs\n{text}")
    assert load([third])["resize"].function.__module__ == third


def test_a_module_may_hold_proxies_that_stand_for_nothing_yet(module: Module) -> None:
    text = "from flask import current_app, request\n"
    text += "from pgfleet_worker import handler\n@handler('proxied')\ndef one(task): ...\n"
    assert "proxied" in load([module("proxies", text)])
