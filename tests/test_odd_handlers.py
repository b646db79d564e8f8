"""Handlers that are written oddly: they cost themselves, not their worker, and what can't be is said at once."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pgfleet import demo, tasks
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


@pytest.mark.parametrize("type", ["fork_speaks", "fork_speaks_apart"])
def test_a_fork_can_not_speak_for_its_task(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path, type: str
) -> None:
    conn, file = database.connect(), tmp_path / "said"
    worker(processes, handlers=ODD)
    id = tasks.create(conn, type, {"file": str(file)}, created_by=1)
    assert wait_until(ended(conn, id))["status"] == "success"
    assert conn.execute("select progress, checkpoint from tasks where id = %s", [id]).fetchone() == (None, None)
    assert [line[:36] for line in file.read_text().splitlines()] == ["A process that a handler has forked "] * 2


@pytest.mark.parametrize("type", ["ends_a_fork", "ends_a_fork_apart"])
def test_a_fork_ends_when_it_is_told_to(database: Database, processes: Processes, wait_until: Wait, type: str) -> None:
    conn = database.connect()
    worker(processes, handlers=ODD)
    row = wait_until(ended(conn, tasks.create(conn, type, created_by=1)))
    assert row["result"] == str(-signal.SIGTERM)


def test_an_exception_that_can_not_be_told_costs_its_task_alone(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    process = worker(processes, handlers=ODD)
    row = wait_until(ended(conn, tasks.create(conn, "raises_oddly", '"untellable"', created_by=1)))
    assert (row["status"], row["attempt"]) == ("failure", 2)
    assert "in raises_oddly" in row["error_detail"]
    assert "Untellable, which can't be told" in row["error_detail"]
    row = wait_until(ended(conn, tasks.create(conn, "raises_oddly", '"no_book"', created_by=1)))
    assert (row["status"], row["attempt"]) == ("failure", 1)  # it gives up, though it can't say why
    assert "NoBook" in row["error_detail"]
    later = tasks.create(conn, "raises_oddly", '"busy"', created_by=1)
    wait_until(lambda: tasks.get(conn, later)["status"] == "waiting")
    assert tasks.get(conn, later)["run_at"] > datetime.now(UTC) + timedelta(seconds=500)
    assert not process.events("worker.broken")
    assert process.stop() == 0


def test_a_connection_that_is_used_when_it_is_closed_is_a_failure(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    worker(processes, handlers=ODD)
    row = wait_until(ended(conn, tasks.create(conn, "uses_a_closed_connection", created_by=1)))
    assert (row["status"], row["attempt"]) == ("failure", 2)
    assert "the connection is closed" in row["error_detail"]


def test_what_a_cancelled_process_has_under_way_in_postgres_is_called_off(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    worker(processes, handlers=ODD)
    id = tasks.create(conn, "sleeps_in_postgres", created_by=1)
    asleep = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()"
    wait_until(lambda: conn.execute(asleep).fetchone() == (1,))
    tasks.cancel(conn, id)
    assert wait_until(ended(conn, id))["status"] == "cancelled"
    assert conn.execute(asleep).fetchone() == (0,)


def test_a_coroutine_that_returns_while_it_is_being_cancelled_has_finished(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    worker(processes, handlers=ODD)
    ids = tasks.create_many(conn, "cancels_itself_and_returns", [None] * 200, created_by=1)
    assert {wait_until(ended(conn, id))["attempt"] for id in ids} == {1}


def test_a_coroutines_checkpoint_does_not_wait_for_what_others_have_the_loops_threads_do(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn, gate = database.connect(), tmp_path / "gate"
    worker(processes, handlers=ODD)
    hog = tasks.create(conn, "takes_the_loops_threads", {"gate": str(gate)}, created_by=1)
    wait_until(lambda: tasks.get(conn, hog)["status"] == "started")
    assert wait_until(ended(conn, tasks.create(conn, "saves_async", created_by=1)))["status"] == "success"
    assert tasks.get(conn, hog)["status"] == "started"
    gate.touch()
    assert wait_until(ended(conn, hog))["status"] == "success"


def test_a_handler_that_changes_the_folder_takes_no_exports_with_it(
    database: Database, processes: Processes, wait_until: Wait, export_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn = database.connect()
    demo.install(conn)
    monkeypatch.chdir(export_dir.parent)
    env = {"PYTHONPATH": str(Path(__file__).parents[1])}
    worker(processes, handlers=ODD, settings=database.settings(export_dir=Path(export_dir.name)), env=env)
    assert wait_until(ended(conn, tasks.create(conn, "moves_away", created_by=1)))["status"] == "success"
    row = wait_until(ended(conn, tasks.create(conn, "csv_export", created_by=1)))
    assert row["status"] == "success", row["error_detail"]
    assert (export_dir / json.loads(row["result"])["filename"]).exists()


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
    for calls in ("1", "2"):
        assert wait_until(ended(conn, tasks.create(conn, type, created_by=1)))["result"] == calls


def test_a_coroutine_under_a_plain_decorator_can_be_called_off(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn, file = database.connect(), tmp_path / "told"
    process = worker(processes, handlers=ODD)
    row = wait_until(ended(conn, tasks.create(conn, "wrapped_and_long", {"file": str(file)}, created_by=1)))
    assert (row["status"], row["error"], file.read_text()) == ("failure", "Timed out after 0.2 s.", "cancelled")
    assert not process.events("task.abandoned")


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
        ({"max_retries": 1001}, "a whole number, 0 to 1000"),
        ({"retry_delay": -1}, "retry_delay=-1"),
        ({"retry_delay": float("nan")}, "retry_delay=nan"),
        ({"retry_delay": 4e7}, "at most a year"),
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": float("inf")}, "timeout=inf"),
        ({"max_running": 0}, "max_running=0"),
        ({"max_running": 1.5}, "a whole number, 1 or more"),
        ({"max_retries": True}, "max_retries=True"),
        ({"retry_delay": "10"}, "retry_delay='10'"),
        ({"description": None}, "expected a text"),
        ({"tasks_per_process": 0}, "tasks_per_process=0"),
    ],
)
def test_a_mark_that_can_not_be_is_refused_where_it_stands(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        handler(**{"type": "fine", **options})


@pytest.mark.parametrize("name", ["./odd.py", "odd.py", "folder/odd"])
def test_a_file_is_no_module(name: str) -> None:
    with pytest.raises(SettingsError, match="is a file") as caught:
        load([name])
    assert "Name the module, odd," in str(caught.value.hint)


def test_a_module_that_ends_the_process_is_told_of(module: Module) -> None:
    with pytest.raises(SettingsError, match="ends the process"):
        load([module("ends", "raise SystemExit(0)")])


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
