"""``pgfleet tasks``: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgfleet import schedules, tasks
from pgfleet.settings import Settings
from tests.support.cli import Run, answered, on_terminal
from tests.support.database import environment
from tests.support.fleet import WORKER, claim, lapse, put, register, task
from tests.support.following import ended
from tests.support.processes import Processes


def test_a_task_is_created_shown_cancelled_and_retried(run: Run, database: Any) -> None:
    register(database.connect())
    created = run("tasks", "create", "job", '{"a": 1}', "--user", "7", "--priority", "3", "--max-retries", "2")
    id = created.stdout.strip()
    assert id.isdigit()
    row = answered(run("tasks", "show", id, "--json"))
    assert (row["data"], row["created_by"], row["priority"], row["max_retries"]) == ('{"a": 1}', 7, 3, 2)
    assert run("tasks", "cancel", id).stdout == f"Task {id} is cancelled.\n"
    assert answered(run("tasks", "show", id, "--json"))["status"] == "cancelled"
    assert run("tasks", "retry", id).stdout == f"Task {id} is fresh again.\n"
    assert answered(run("tasks", "show", id, "--json"))["status"] == "fresh"


def test_retrying_a_task_for_all_nodes_says_that_it_is_started_again(run: Run, database: Any) -> None:
    conn = database.connect()
    register(conn)
    id = str(tasks.create_for_all_nodes(conn, "job", created_by=1))
    conn.execute("select cancel_task(%s)", [id])
    assert answered(run("tasks", "retry", id, "--json")) == [{"task_id": int(id), "status": "started"}]
    conn.execute("select cancel_task(%s)", [id])
    assert run("tasks", "retry", id).stdout == f"Task {id} is started again, with what of it had not succeeded.\n"


def test_data_can_come_from_stdin_and_a_delayed_task_waits(run: Run, database: Any) -> None:
    register(database.connect())
    arguments = ["tasks", "create", "job", "-", "--user", "1", "--delay", "3600", "--retry-delay", "2.5", "--json"]
    id = answered(run(*arguments, stdin="line\nline"))["task_id"]
    row = answered(run("tasks", "show", str(id), "--json"))
    assert (row["data"], row["status"], row["retry_delay"]) == ("line\nline", "waiting", 2.5)


def test_two_ways_to_say_when_are_refused(run: Run) -> None:
    result = run("tasks", "create", "job", "--user", "1", "--delay", "1", "--run-at", "2999-01-01")
    assert (result.exit_code, "give one" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("option", "given", "code", "said"),
    [
        ("--user", "99999999999999999999", 2, "is not in the range"),
        ("--user", "-1", 2, "is not in the range"),
        ("--delay", "nan", 2, "expected a duration such as 90s"),
        ("--timeout", "-3", 2, "expected a duration such as 90s"),
        ("--timeout", "400d", 1, "timeout must be from 1 millisecond to 365 days."),
        ("--retry-delay", "11574d", 1, "Got null and 11574 days."),
        ("--unique-key", "", 1, "unique_key must not be empty."),
        ("--node", "", 1, "node must be a server's name."),
    ],
)
def test_a_task_that_can_not_be_is_refused_in_words(
    run: Run, database: Any, option: str, given: str, code: int, said: str
) -> None:
    conn = database.connect()
    register(conn)
    result = run("tasks", "create", "job", "--user", "1", option, given)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr
    assert conn.execute("select count(*) from tasks").fetchone() == (0,)


def test_a_unique_key_answers_the_task_that_holds_it(run: Run, database: Any) -> None:
    register(database.connect())
    ids = {run("tasks", "create", "job", "--user", "1", "--unique-key", "k").stdout for _ in range(2)}
    assert len(ids) == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["failure", "started", "fresh"]),
        (["--status", "fresh"], ["fresh"]),
        (["--status", "fresh", "--status", "failure"], ["failure", "fresh"]),
        (["--type", "csv_export"], []),
        (["--created-by", "1", "--sort", "id"], ["fresh", "started", "failure"]),
        (["--created-by", "2"], []),
        (["--limit", "1", "--offset", "1"], ["started"]),
        (["--sort", "status:asc"], ["failure", "fresh", "started"]),
    ],
)
def test_the_list_takes_the_apis_filters(run: Run, database: Any, options: list[str], expected: list[str]) -> None:
    conn = database.connect()
    register(conn)
    for status in ("fresh", "started", "failure"):
        put(conn, status)
    page = answered(run("tasks", "list", "--json", *options))
    assert [row["status"] for row in page["list"]] == expected
    assert page["pageSize"] == (1 if "--limit" in options else 50)
    assert page["totalSize"] == (3 if "--limit" in options else len(expected))


def test_in_a_pipe_a_row_is_a_line_of_tab_separated_cells(run: Run, database: Any) -> None:
    conn = database.connect()
    register(conn)
    id = put(conn, "failure")
    conn.execute("update tasks set error = E'two\\nlines\\tand a tab'")
    head, line = run("tasks", "list").stdout.splitlines()
    row = dict(zip(head.split("\t"), line.split("\t"), strict=True))
    assert (row["ID"], row["Status"], row["Worker"]) == (str(id), "failure", WORKER)
    assert row["Error"] == "two\\nlines\\tand a tab"
    assert f"error\t{row['Error']}" in run("tasks", "show", str(id)).stdout.splitlines()


def test_the_list_has_the_columns_of_the_cluster_schedulers_contract(run: Run, database: Any) -> None:
    conn = database.connect()
    register(conn)
    put(conn, "failure")
    waits = put(conn, "waiting")
    head, first, second = run("tasks", "list").stdout.splitlines()
    columns = head.split("\t")
    assert columns[:7] == ["ID", "Type", "Status", "Next Run", "Last Run", "Failures", "Persistent"]
    waiting, failed = (dict(zip(columns, line.split("\t"), strict=True)) for line in (first, second))
    assert (waiting["ID"], waiting["Next Run"], waiting["Last Run"]) == (str(waits), "2999-01-01 00:00:00+00:00", "")
    assert (failed["Next Run"], failed["Last Run"] != "", failed["Failures"]) == ("", True, "1")
    assert {waiting["Persistent"], failed["Persistent"]} == {"Storage"}


def test_what_a_live_worker_keeps_in_memory_is_listed_behind_the_tasks_and_goes_with_it(
    run: Run, database: Any
) -> None:
    conn = database.connect()
    worker = register(conn)
    id = put(conn, "fresh")
    kept = {"name": "cache", "type": "cache", "enabled": True, "next_due": "2999-01-01T00:00:00+00:00", "failures": 2}
    schedules.declare(conn, worker, in_memory=[kept])

    def listed(*options: str) -> list[list[str]]:
        head, *lines = run("tasks", "list", *options).stdout.splitlines()
        rows = [dict(zip(head.split("\t"), line.split("\t"), strict=True)) for line in lines]
        return [[row[name] for name in ("ID", "Next Run", "Failures", "Persistent")] for row in rows]

    memory = ["cache", "2999-01-01 00:00:00+00:00", "2", "Memory"]
    assert listed() == [[str(id), "", "0", "Storage"], memory]
    assert listed("--type", "cache") == [memory]
    assert listed("--status", "fresh") == listed("--type", "job") == [[str(id), "", "0", "Storage"]]
    assert [row["id"] for row in answered(run("tasks", "list", "--json"))["list"]] == [id]
    lapse(conn, worker)
    assert listed() == [[str(id), "", "0", "Storage"]]


def test_on_a_terminal_the_list_is_a_table(settings: Settings, database: Any) -> None:
    conn = database.connect()
    register(conn)
    put(conn, "failure")
    conn.execute("update tasks set error = '[red]not markup[/red]'")
    leader, follower = pty.openpty()
    try:
        env = {**environment(settings), "COLUMNS": "200", "TERM": "xterm"}
        argv = [sys.executable, "-m", "pgfleet.cli.main", "tasks", "list"]
        done = subprocess.run(argv, env=env, stdout=follower, stderr=subprocess.PIPE, timeout=60)
        shown = os.read(leader, 65536).decode()
    finally:
        os.close(leader)
        os.close(follower)
    assert done.returncode == 0, done.stderr
    assert "\t" not in shown
    assert "[red]not markup[/red]" in shown


CLOSED = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-m", "pgfleet.cli.main"]


def test_with_its_standard_streams_closed_it_does_its_work_and_says_nothing(settings: Settings, database: Any) -> None:
    conn = database.connect()
    register(conn)
    id = tasks.create(conn, "job", created_by=1)
    done = subprocess.run([*CLOSED, "tasks", "cancel", str(id)], env=environment(settings), timeout=60)
    assert (done.returncode, task(conn, id)["status"]) == (0, "cancelled")
    for read in (["tasks", "list"], ["tasks", "show", str(id)]):
        assert subprocess.run([*CLOSED, *read], env=environment(settings), timeout=60).returncode == 0


def test_a_worker_without_standard_streams_works(
    database: Any, processes: Processes, wait_until: Callable[..., Any]
) -> None:
    conn = database.connect()
    worker = processes.run(*CLOSED, "worker", "--handlers", "tests.support.handlers")
    wait_until(lambda: conn.execute("select count(*) from workers").fetchone() == (1,))
    assert wait_until(ended(conn, tasks.create(conn, "echo", created_by=1)))["status"] == "success"
    assert worker.stop() == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full, which Linux has")
def test_a_full_disk_is_told_of_in_words(settings: Settings) -> None:
    argv = [sys.executable, "-m", "pgfleet.cli.main", "types", "list"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            argv, env=environment(settings), stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert (done.returncode, done.stderr) == (1, "Error: What this prints can't be written: no space is left.\n")


def test_an_unknown_task_and_a_wrong_state_name_the_next_command(run: Run, database: Any) -> None:
    conn = database.connect()
    register(conn)
    id = put(conn, "success")
    missing = run("tasks", "show", "404")
    assert missing.exit_code == 1
    assert missing.stderr == "Error: No task exists with ID: 404\nHint: See which exist: pgfleet tasks list.\n"
    refused = run("tasks", "cancel", str(id))
    assert refused.exit_code == 1
    assert refused.stderr.splitlines()[0] == f"Error: Task {id} can't be cancelled: it is success."


def test_of_several_tasks_those_that_can_are_cancelled_and_the_exit_code_tells_of_the_others(
    run: Run, database: Any
) -> None:
    conn = database.connect()
    register(conn)
    done, free = put(conn, "success"), put(conn, "fresh")
    result = run("tasks", "cancel", str(done), "404", str(free))
    assert result.exit_code == 1
    assert result.stdout == f"Task {free} is cancelled.\n"
    assert "Error: 2 of 3 tasks were refused." in result.stderr


def test_an_unknown_type_is_refused_and_the_known_ones_are_named(run: Run) -> None:
    result = run("tasks", "create", "nonesuch", "--user", "1")
    assert result.exit_code == 1
    assert 'Error: Unknown task type "nonesuch".\n  Known types: csv_export.' in result.stderr


def test_show_tells_of_every_attempt(run: Run, database: Any) -> None:
    conn = database.connect()
    register(conn)
    id = put(conn, "failure")
    assert run("tasks", "retry", str(id)).exit_code == 0
    assert claim(conn) == [id]
    row = answered(run("tasks", "show", str(id), "--json"))
    assert [(one["attempt"], one["status"], one["node"]) for one in row["executions"]] == [
        (2, "started", "node"), (1, "failure", "node")
    ]  # fmt: skip
    lines = run("tasks", "show", str(id)).stdout.splitlines()
    head, second, first = lines[lines.index("") + 1 :]
    assert head.startswith("attempt\tstatus\tworker\tnode\tstarted_at\tended_at")
    assert second.startswith(f"2\tstarted\t{WORKER}\tnode\t")
    assert (first.startswith(f"1\tfailure\t{WORKER}\tnode\t"), first.endswith("\tbroke")) == (True, True)


def test_a_task_can_name_its_node_and_its_timeout(run: Run, database: Any) -> None:
    register(database.connect())
    id = run("tasks", "create", "job", "--user", "1", "--node", "server-7", "--timeout", "1.5").stdout.strip()
    row = answered(run("tasks", "show", id, "--json"))
    assert (row["node"], row["timeout"]) == ("server-7", 1.5)


def test_a_crashed_task_is_resumed_from_its_checkpoint(run: Run, database: Any) -> None:
    conn = database.connect()
    register(conn)
    id, fresh = put(conn, "crashed"), put(conn, "fresh")
    conn.execute("update tasks set checkpoint = '7' where id = %s", [id])
    assert answered(run("tasks", "resume", str(id), "--json")) == [{"task_id": id, "status": "fresh"}]
    assert (task(conn, id)["status"], task(conn, id)["checkpoint"]) == ("fresh", "7")
    refused = run("tasks", "resume", str(fresh))
    assert (refused.exit_code, f"Task {fresh} can't be resumed" in refused.stderr) == (1, True)


def test_json_tells_of_each_task_what_became_of_it(run: Run, database: Any) -> None:
    conn = database.connect()
    register(conn)
    fresh, started, done = put(conn, "fresh"), put(conn, "started"), put(conn, "success")
    result = run("tasks", "cancel", str(fresh), str(started), str(done), "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == [
        {"task_id": fresh, "status": "cancelled"},
        {"task_id": started, "status": "started"},
        {"task_id": done, "error": f"Task {done} can't be cancelled: it is success."},
    ]


def test_the_parts_of_a_task_are_listed(run: Run, database: Any) -> None:
    conn = database.connect()
    register(conn)
    whole, part = put(conn, "fresh"), put(conn, "fresh")
    conn.execute("update tasks set parent = %s where id = %s", [whole, part])
    page = answered(run("tasks", "list", "--parent", str(whole), "--json"))
    assert ([row["id"] for row in page["list"]], page["totalSize"]) == ([part], 1)


@pytest.mark.parametrize("arguments", [("tasks", "list"), ("tasks", "show", "1")])
def test_a_tasks_own_control_characters_are_shown_on_a_terminal_and_not_obeyed(
    settings: Settings, database: Any, arguments: tuple[str, ...]
) -> None:
    conn = database.connect()
    register(conn)
    assert put(conn, "failure") == 1
    conn.execute("update tasks set error = E'a\\x1b]0;title\\x07b'")
    shown = on_terminal(settings, *arguments)
    assert "a\\x1b]0;title\\x07b" in shown
    assert "\x1b]0;" not in shown
