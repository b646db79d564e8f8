"""``pgfleet tasks watch`` and ``cancel --wait``: they end when the tasks do, and the exit code says how."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from pgfleet.settings import Settings
from tests.support.cli import Run
from tests.support.database import environment
from tests.support.fleet import WORKER, claim, column, create, put, register, value

#: Those that have looked at least once: a watch that loses its database before that gives up.
WATCHES = (
    "select count(*) from pg_stat_activity where application_name = 'pgfleet tasks follow' and state = 'idle'"
    " and position('seconds_left' in query) > 0 and datname = current_database()"
)


class InBackground:
    """Runs the command in a thread; ``result`` waits for its end."""

    def __init__(self, run: Run, *arguments: str) -> None:
        self._results: list[Any] = []
        self._thread = threading.Thread(target=lambda: self._results.append(run(*arguments)))
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def result(self) -> Any:
        self._thread.join(40)
        return self._results[0]


@pytest.fixture
def conn(database: Any) -> Any:
    """A connection to a fleet of one worker."""
    made = database.connect()
    register(made)
    return made


def test_a_watch_ends_with_its_tasks_and_0_only_if_all_succeeded(
    run: Run, conn: Any, wait_until: Callable[..., Any]
) -> None:
    done, started, fresh = put(conn, "success"), put(conn, "started"), put(conn, "fresh")
    watch = InBackground(run, "tasks", "watch", *map(str, (done, started, fresh)))
    wait_until(lambda: value(conn, WATCHES), what="the watch looks")
    conn.execute("select finish_tasks(%s, %s, '{1}', '{null}')", [WORKER, [started]])
    assert watch.running
    assert claim(conn) == [fresh]
    conn.execute("select finish_tasks(%s, %s, '{1}', '{null}')", [WORKER, [fresh]])
    result = watch.result()
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[0] == "id\ttype\tstatus\tattempt\tprogress\tcurrent_step\terror"
    ends = [line.split("\t")[2] for line in result.stdout.splitlines() if line.startswith(f"{fresh}\t")]
    assert ends[-1] == "success"


@pytest.mark.parametrize("status", ["failure", "crashed", "cancelled"])
def test_a_task_that_did_not_succeed_is_named(run: Run, conn: Any, status: str) -> None:
    ids = put(conn, "success"), put(conn, status)
    result = run("tasks", "watch", *map(str, ids))
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: 1 of 2 tasks did not end as success: {ids[1]} {status}.\nHint: See why: pgfleet tasks show {ids[1]}.\n"
    )


def test_a_failure_that_will_be_retried_is_not_the_end(run: Run, conn: Any, wait_until: Callable[..., Any]) -> None:
    id = create(conn, max_retries=1)
    claim(conn)
    watch = InBackground(run, "tasks", "watch", str(id), "--json")
    conn.execute("select fail_task(%s, %s, 1, 'broke', retry_in => '0')", [WORKER, id])
    wait_until(lambda: value(conn, WATCHES), what="the watch looks")
    conn.execute("select promote_tasks()")
    assert claim(conn) == [id]
    assert watch.running
    conn.execute("select finish_tasks(%s, %s, '{2}', '{null}')", [WORKER, [id]])
    result = watch.result()
    assert result.exit_code == 0
    (row,) = json.loads(result.stdout)
    assert (row["id"], row["status"], row["attempt"]) == (id, "success", 2)


def test_a_type_is_watched_by_its_unfinished_tasks(run: Run, conn: Any) -> None:
    put(conn, "failure")
    nothing = run("tasks", "watch", "--type", "job")
    assert (nothing.exit_code, nothing.stderr) == (0, "No task of type job is unfinished.\n")
    ids = [put(conn, "waiting"), put(conn, "fresh"), put(conn, "started"), create(conn, node="elsewhere")]
    result = run("tasks", "watch", "--type", "job", "--max-wait", "0")
    assert result.exit_code == 1
    assert sorted({int(line.split("\t")[0]) for line in result.stdout.splitlines()[1:]}) == sorted(ids)
    assert "4 of 4 tasks had not ended after 0 s." in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "Say which tasks"),
        (["1", "--type", "job"], 2, "Say which tasks"),
        (["--type", "jbo"], 1, "Error: Unknown task type: jbo\nHint: See which are known: pgfleet types list."),
        (["404", "405"], 1, "Error: No task exists with ID: 404, 405\nHint: See which exist: pgfleet tasks list."),
    ],
)
def test_what_can_not_be_watched_is_refused(run: Run, arguments: list[str], code: int, said: str) -> None:
    result = run("tasks", "watch", *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr


def test_a_task_that_is_removed_while_it_is_watched_is_gone(
    run: Run, conn: Any, wait_until: Callable[..., Any]
) -> None:
    id = put(conn, "fresh")
    watch = InBackground(run, "tasks", "watch", str(id))
    wait_until(lambda: value(conn, WATCHES), what="the watch looks")
    conn.execute("delete from tasks")
    result = watch.result()
    assert (result.exit_code, f"success: {id} gone." in result.stderr) == (1, True)


def test_a_watch_outlasts_an_outage(run: Run, database: Any, conn: Any, wait_until: Callable[..., Any]) -> None:
    id = put(conn, "started")
    watch = InBackground(run, "tasks", "watch", str(id))
    wait_until(lambda: value(conn, WATCHES), what="the watch looks")
    name = Identifier(conn.info.dbname)
    with psycopg.connect(database.url, dbname="postgres", autocommit=True) as outside:
        outside.execute(SQL("alter database {} allow_connections false").format(name))
        conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'pgfleet tasks follow' and datname = current_database()"
        )
        wait_until(lambda: not value(conn, WATCHES), what="the watch is cut off")
        outside.execute(SQL("alter database {} allow_connections true").format(name))
    wait_until(lambda: value(conn, WATCHES), what="the watch is back")
    conn.execute("select finish_tasks(%s, %s, '{1}', '{null}')", [WORKER, [id]])
    result = watch.result()
    assert (result.exit_code, result.stderr) == (0, "The database is away; waiting for it.\n")


def test_a_running_task_is_told_to_stop_and_its_end_can_be_waited_for(
    run: Run, conn: Any, wait_until: Callable[..., Any]
) -> None:
    id, fresh = put(conn, "started"), put(conn, "fresh")
    asked = run("tasks", "cancel", str(id))
    assert (asked.exit_code, asked.stdout) == (0, f"Task {id} is running: its worker is told to stop it.\n")
    assert asked.stderr == f"Wait for their end: pgfleet tasks watch {id}\n"
    waiting = InBackground(run, "tasks", "cancel", str(id), str(fresh), "--wait")
    wait_until(lambda: value(conn, WATCHES), what="it waits")
    conn.execute("select end_cancelled(%s, %s, 1)", [WORKER, id])
    result = waiting.result()
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[1:] == [f"Task {fresh} is cancelled.", f"Task {id} is cancelled."]


def test_a_task_that_was_done_before_it_could_stop_is_no_cancelled_one(
    run: Run, conn: Any, wait_until: Callable[..., Any]
) -> None:
    id = put(conn, "started")
    waiting = InBackground(run, "tasks", "cancel", str(id), "--wait", "--json")
    wait_until(lambda: column(conn, "select id from tasks where cancel_requested_at is not null"), what="it is told")
    conn.execute("select finish_tasks(%s, %s, '{1}', '{null}')", [WORKER, [id]])
    result = waiting.result()
    assert json.loads(result.stdout) == [{"task_id": id, "status": "success"}]
    assert (result.exit_code, f"did not end as cancelled: {id} success." in result.stderr) == (1, True)


@pytest.mark.parametrize("many", [False, True])
def test_on_a_terminal_a_watch_draws_bars(settings: Settings, conn: Any, many: bool) -> None:
    ids = [put(conn, "success") for _ in range(21 if many else 1)]
    id = put(conn, "started")
    conn.execute("select progress_task(%s, %s, 1, 0.25, '[red]notes[/red]', '90 seconds')", [WORKER, id])
    leader, follower = pty.openpty()
    env = {**environment(settings), "COLUMNS": "160", "TERM": "xterm"}
    argv = [sys.executable, "-m", "pgfleet.cli.main", "tasks", "watch", *map(str, [*ids, id])]
    with subprocess.Popen(argv, env=env, stdout=follower, stderr=subprocess.PIPE) as watch:
        os.close(follower)
        shown = b""
        while (b"21 success" if many else b"[red]notes[/red]") not in shown:
            shown += os.read(leader, 65536)
        conn.execute("select fail_task(%s, %s, 1, 'broke')", [WORKER, id])
        try:
            while piece := os.read(leader, 65536):
                shown += piece
        except OSError:  # how Linux says that the other side is closed
            pass
        os.close(leader)
        assert watch.wait(40) == 1
        assert f"{id} failure" in watch.stderr.read().decode()  # type: ignore[union-attr]
    text = shown.decode()
    for word in ("22 tasks", "1 started", "1 failure") if many else (f"{id} job", "started", "25%", "s left", "broke"):
        assert word in text
