"""The state machine of ``tasks``, as sql/README.md draws it: every function from every status; and every error's code."""

from __future__ import annotations

import re
from collections.abc import Callable

import psycopg
import pytest

from pgfleet import errors, sql, tasks, workers
from tests.support.database import Database
from tests.support.fleet import (
    WORKER,
    Connection,
    create,
    lapse,
    put,
    register,
    sqlstate,
    status,
    task,
    value,
)
from tests.support.transitions import FINISH_EXPORT, GONE, NOT, SHA, STATUSES, TRANSITIONS


def act(conn: Connection, action: str, id: int) -> str | None:
    """Do ``action`` to the task as WORKER in its first attempt; answers the SQLSTATE it was refused with."""
    action, comma, _ = action.partition(", cancel asked for")
    if comma:
        conn.execute("update tasks set cancel_requested_at = now() where id = %s and status = 'started'", [id])
    match action:
        case "claim_tasks":
            return sqlstate(conn, "select claim_tasks(%s, '{job}', 1, ids => %s)", WORKER, [id])
        case "promote_tasks":
            conn.execute("update tasks set run_at = now() where id = %s and status = 'waiting'", [id])
            return sqlstate(conn, "select promote_tasks()")
        case "finish_tasks":
            return sqlstate(conn, "select finish_tasks(%s, %s, '{1}', '{done}')", WORKER, [id])
        case "finish_export":
            return sqlstate(conn, FINISH_EXPORT, WORKER, id, 1, f"export_{id}.csv", SHA)
        case "fail_task, retries left":
            conn.execute("update tasks set max_retries = 1, failure_count = 0 where id = %s", [id])
            return sqlstate(conn, "select fail_task(%s, %s, 1, 'broke')", WORKER, id)
        case "fail_task, no retries left" | "fail_task":
            return sqlstate(conn, "select fail_task(%s, %s, 1, 'broke')", WORKER, id)
        case "release_tasks":
            return sqlstate(conn, "select release_tasks(%s, %s, '{1}')", WORKER, [id])
        case "end_cancelled" | "progress_task" | "checkpoint_task":
            last = {"end_cancelled": "", "progress_task": ", 0.5", "checkpoint_task": ", 'here'"}[action]
            return sqlstate(conn, f"select {action}(%s, %s, 1{last})", WORKER, id)
        case "release_unheld":
            return sqlstate(conn, "select release_unheld(%s, '{}', '{}')", WORKER)
        case "deregister_worker":
            return sqlstate(conn, "select deregister_worker(%s)", WORKER)
        case "rescue_tasks, no crashes left":
            conn.execute("update tasks set crash_count = 2 where id = %s", [id])
            lapse(conn)
            return sqlstate(conn, "select rescue_tasks()")
        case "rescue_tasks, crashes left" | "rescue_tasks":
            lapse(conn)
            return sqlstate(conn, "select rescue_tasks()")
        case "crash_parts":
            # As a part of a node that is gone; what names none waits for ever.
            parent = create(conn)
            conn.execute(
                "update tasks set status = 'started', worker = 'all nodes', started_at = now() where id = %s", [parent]
            )
            conn.execute("update tasks set node = 'gone', parent = %s where id = %s", [parent, id])
            refused = sqlstate(conn, "select crash_parts('0')")
            conn.execute("update tasks set node = null, parent = null where id = %s", [id])
            return refused
        case "configure_task":
            return sqlstate(conn, "select configure_task(%s, max_retries => 3)", id)
        case _:
            return sqlstate(conn, f"select {action}(%s)", id)


@pytest.mark.parametrize("action", TRANSITIONS)
def test_from_every_status_an_action_does_what_the_transition_table_says(database: Database, action: str) -> None:
    conn = database.connect()
    register(conn)
    refusal, allowed = TRANSITIONS[action]
    expected, seen = {}, {}
    for before in STATUSES:
        register_again(conn)
        id = put(conn, before)
        untouched = task(conn, id)
        refused = act(conn, action, id)
        seen[before] = (refused or NOT, status(conn, id))
        if allowed.get(before, GONE) in STATUSES:
            expected[before] = (NOT, allowed[before])
        else:
            expected[before] = (allowed.get(before, refusal), before)
            changed = {name for name, was in untouched.items() if task(conn, id)[name] != was}
            assert changed <= {"run_at", "max_retries", "failure_count", "crash_count"}, f"{before}: {changed}"
    assert seen == expected


def register_again(conn: Connection) -> None:
    conn.execute("delete from workers; delete from worker_history")
    register(conn)


def test_the_transition_table_covers_every_function_that_moves_a_task() -> None:
    writers = {
        path.stem for path in (sql.root() / "functions").glob("*.sql") if re.search(r"update tasks\b", path.read_text())
    }
    of_parents = {"make_parts", "sum_up_parts"}  # test_all_nodes_sql.py
    marks = {"configure_type"}  # what runs, as counted under a limit: test_limit_changes_sql.py
    runs = {"make_run"}  # the schedule of a new task for all nodes: test_firing_sql.py
    assert writers - of_parents - marks - runs <= {action.partition(",")[0] for action in TRANSITIONS}


def test_every_status_is_reached_and_only_the_finished_ones_can_be_last(database: Database) -> None:
    conn = database.connect()
    moves = {(a, b) for _, allowed in TRANSITIONS.values() for a, b in allowed.items() if b in STATUSES and a != b}
    assert {b for _, b in moves} == set(STATUSES)
    assert set(STATUSES) - {a for a, _ in moves} == {"success"}
    check = value(conn, "select pg_get_constraintdef(oid) from pg_constraint where conname = 'tasks_status_check'")
    assert set(re.findall(r"'(\w+)'", check)) == set(STATUSES)


@pytest.mark.parametrize("function", ["cancel_task", "retry_task", "resume_task", "configure_task"])
def test_an_unknown_id_is_refused_as_such(database: Database, function: str) -> None:
    assert sqlstate(database.connect(), f"select {function}(404)") == "PF002"


CALLS: dict[str, Callable[[psycopg.Connection], object]] = {
    "PF001": lambda c: tasks.create(c, "nonesuch", created_by=1),
    "PF002": lambda c: tasks.cancel(c, 404),
    "PF003": lambda c: tasks.retry(c, create(c)),
    "PF004": lambda c: c.execute("select fail_task('nobody', 1, 1, 'broke')"),
    "PF005": lambda c: c.execute("select renew_worker('nobody')"),
    "PF006": lambda c: tasks.create(c, "job", created_by=1, max_retries=-1),
    "PF007": lambda c: workers.order_worker(c, "nobody", "pause"),
    "PF008": lambda c: c.execute("select put_schedule('s', 'job'), trigger_schedule('s'), trigger_schedule('s')"),
    "PF009": lambda c: c.execute("select trigger_schedule('nonesuch')"),
}


@pytest.mark.parametrize("code", errors.BY_SQLSTATE)
def test_each_error_code_becomes_the_python_error_of_that_code(database: Database, code: str) -> None:
    conn = database.connect()
    register(conn)
    with pytest.raises((errors.PgfleetError, psycopg.Error)) as caught:
        CALLS[code](conn)
    error = caught.value
    ours = errors.from_postgres(error) if isinstance(error, psycopg.Error) else error
    assert type(ours) is errors.BY_SQLSTATE[code]
    assert ours.message
