"""The state machine of ``tasks``, as sql/README.md draws it: every function from every status."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pgfleet import errors, sql, tasks, workers
from tests.support.database import Database
from tests.support.fleet import (
    OTHER,
    WORKER,
    Connection,
    claim,
    column,
    create,
    lapse,
    put,
    register,
    sqlstate,
    status,
    task,
    value,
)
from tests.support.transitions import GONE, NOT, STATUSES, TRANSITIONS

SHA = "0" * 64
FINISH_EXPORT = "select finish_export(%s, %s, %s, '{}', %s, 1, 'csv', 1, %s)"


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
    of_parents = {"create_for_all_nodes", "sum_up_parts"}  # test_all_nodes_sql.py
    marks = {"configure_type"}  # what runs, as counted under a limit: test_limits_sql.py
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


# What a transition leaves in the row


def test_a_new_task_is_as_the_mission_says(database: Database) -> None:
    conn = database.connect()
    register(conn)
    row = task(conn, create(conn))
    assert (row["type"], row["data"], row["status"], row["created_by"]) == ("job", "data", "fresh", 1)
    assert (row["worker"], row["updated_on"], row["attempt"]) == (None, None, 0)
    assert row["created_at"] is not None


def test_a_claim_stamps_the_row_and_a_finish_keeps_the_stamp(database: Database) -> None:
    conn = database.connect()
    register(conn)
    id = create(conn)
    claim(conn)
    started = task(conn, id)
    assert (started["status"], started["worker"], started["attempt"]) == ("started", WORKER, 1)
    assert started["started_at"] == started["updated_on"] is not None
    assert column(conn, "select finish_tasks(%s, %s, '{1}', '{\"done\"}')", WORKER, [id]) == [[]]
    done = task(conn, id)
    assert (done["status"], done["worker"], done["result"]) == ("success", WORKER, "done")
    assert done["updated_on"] > started["updated_on"]


def test_a_failure_waits_for_its_retry_keeps_its_error_and_counts(database: Database) -> None:
    conn = database.connect()
    register(conn)
    id = create(conn, max_retries=1, retry_delay="1 hour")
    claim(conn)
    conn.execute("select fail_task(%s, %s, 1, 'for the reader', 'for operators')", [WORKER, id])
    row = task(conn, id)
    assert (row["status"], row["worker"], row["started_at"]) == ("waiting", None, None)
    assert (row["error"], row["error_detail"], row["failure_count"]) == ("for the reader", "for operators", 1)
    assert 0.8 * 3600 - 1 <= (row["run_at"] - row["updated_on"]).total_seconds() <= 1.2 * 3600 + 1


def test_giving_up_skips_the_retries_and_retry_in_sets_the_pause(database: Database) -> None:
    conn = database.connect()
    register(conn)
    first, second = create(conn, max_retries=5), create(conn, max_retries=5)
    assert claim(conn, 2) == [first, second]
    assert value(conn, "select status from fail_task(%s, %s, 1, 'no', give_up => true)", WORKER, first) == "failure"
    query = "select run_at - now() from fail_task(%s, %s, 1, 'later', retry_in => '90 seconds')"
    assert value(conn, query, WORKER, second).total_seconds() == 90


def test_the_types_retries_hold_where_the_task_names_none(database: Database) -> None:
    conn = database.connect()
    conn.execute("select register_type('job', max_retries => 1, retry_delay => '0')")
    register(conn)
    id = create(conn)
    seen = []
    for attempt in (1, 2):
        conn.execute("select promote_tasks()")
        assert claim(conn) == [id]
        seen.append(value(conn, "select status from fail_task(%s, %s, %s, 'broke')", WORKER, id, attempt))
    assert seen == ["waiting", "failure"]


def test_a_retry_clears_what_was_and_counts_attempts_on(database: Database) -> None:
    conn = database.connect()
    register(conn)
    kept, reset = put(conn, "failure"), put(conn, "failure")
    tasks.retry(conn, kept)
    tasks.retry(conn, reset, reset_failure_count=True)
    row = task(conn, kept)
    cleared = ("worker", "started_at", "run_at", "result", "error", "error_detail")
    assert {row[name] for name in cleared} == {None}
    assert [task(conn, id)["failure_count"] for id in (kept, reset)] == [1, 0]
    claim(conn, 2)
    assert {task(conn, id)["attempt"] for id in (kept, reset)} == {2}


def test_a_resume_forgives_the_crashes(database: Database) -> None:
    conn = database.connect()
    register(conn)
    id = put(conn, "crashed")
    tasks.resume(conn, id)
    assert task(conn, id)["crash_count"] == 0


def test_configuring_changes_only_what_is_named(database: Database) -> None:
    conn = database.connect()
    register(conn)
    id = create(conn, max_retries=2, retry_delay="5 seconds")
    tasks.configure(conn, id, max_retries=7)
    assert (task(conn, id)["max_retries"], str(task(conn, id)["retry_delay"])) == (7, "0:00:05")
    with pytest.raises(errors.InvalidTask):
        tasks.configure(conn, id, max_retries=1001)


@pytest.mark.parametrize(
    "options",
    [
        {"max_retries": -1},
        {"max_retries": 1001},
        {"retry_delay": "-1 second"},
    ],
)
def test_arguments_out_of_range_are_refused_by_name(database: Database, options: dict[str, Any]) -> None:
    conn = database.connect()
    register(conn)
    with pytest.raises(psycopg.Error, match="max_retries must be from 0 to 1000") as caught:
        create(conn, **options)
    assert caught.value.sqlstate == "PF006"


@pytest.mark.parametrize("run_at", ["infinity", "-infinity", "10000-01-01", "0001-01-01 BC"])
def test_a_due_time_that_clients_can_not_read_is_refused(database: Database, run_at: str) -> None:
    conn = database.connect()
    register(conn)
    assert sqlstate(conn, "select create_task('job', '', 1, run_at => %s)", run_at) == "PF006"
    create(conn, run_at="9999-01-01")
    assert tasks.find(conn).total == 1


def test_a_task_without_its_maker_is_refused(database: Database) -> None:
    conn = database.connect()
    register(conn)
    assert sqlstate(conn, "select create_task('job', '', null)") == "PF006"
    assert sqlstate(conn, "select create_tasks('job', '{a}', null)") == "PF006"


def test_an_unknown_type_is_refused_and_the_known_ones_are_named(database: Database) -> None:
    conn = database.connect()
    register(conn)
    with pytest.raises(errors.UnknownType) as caught:
        tasks.create(conn, "nonesuch", created_by=1)
    assert caught.value.detail == "Known types: csv_export, job."
    assert column(conn, "select id from tasks") == []


def test_many_tasks_are_created_in_order_with_their_ids_in_order(database: Database) -> None:
    conn = database.connect()
    register(conn)
    ids = tasks.create_many(conn, "job", ["a", {"b": 1}, None], created_by=7, priority=3)
    assert ids == sorted(ids)
    assert [task(conn, id)["data"] for id in ids] == ["a", '{"b": 1}', None]
    assert tasks.create_many(conn, "job", [], created_by=7) == []


def test_a_row_inserted_directly_is_a_task_like_any_other(database: Database) -> None:
    conn = database.connect()
    register(conn)
    id = value(conn, "insert into tasks (type, data, created_by) values ('job', 'any text', 1) returning id")
    assert claim(conn) == [id]


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("status = 'started'", "a_started_task_has_a_worker"),
        ("worker = 'somebody'", "a_task_not_yet_taken_has_no_worker"),
        ("status = 'waiting'", "a_waiting_task_has_a_due_time"),
        ("status = 'done'", "tasks_status_check"),
    ],
)
def test_an_impossible_row_is_refused_by_the_table_itself(database: Database, change: str, constraint: str) -> None:
    conn = database.connect()
    register(conn)
    id = create(conn)
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        conn.execute(f"update tasks set {change} where id = %s", [id])
    assert caught.value.diag.constraint_name == constraint


# The fence


@pytest.mark.parametrize(
    ("worker", "attempt"), [(OTHER, 1), (WORKER, 0), (WORKER, 2)], ids=["other worker", "earlier", "later"]
)
def test_only_the_attempt_that_holds_a_task_can_settle_it(database: Database, worker: str, attempt: int) -> None:
    conn = database.connect()
    register(conn)
    id = put(conn, "started")
    before = task(conn, id)
    assert value(conn, "select finish_tasks(%s, %s, %s, '{x}')", worker, [id], [attempt]) == [id]
    assert sqlstate(conn, "select fail_task(%s, %s, %s, 'broke')", worker, id, attempt) == "PF004"
    assert value(conn, "select release_tasks(%s, %s, %s)", worker, [id], [attempt]) == 0
    assert sqlstate(conn, FINISH_EXPORT, worker, id, attempt, "export_a.csv", SHA) == "PF004"
    assert task(conn, id) == before
    assert column(conn, "select id from exports") == []


def test_a_batch_settles_what_is_held_and_names_the_rest(database: Database) -> None:
    conn = database.connect()
    register(conn)
    held, lost = put(conn, "started"), put(conn, "started")
    conn.execute("select release_tasks(%s, %s, '{1}')", [WORKER, [lost]])
    assert value(conn, "select finish_tasks(%s, %s, '{1,1,1}', '{a,b,c}')", WORKER, [held, lost, 404]) == [lost, 404]
    assert (status(conn, held), status(conn, lost)) == ("success", "fresh")


def test_an_exports_row_and_its_tasks_success_come_together_or_not_at_all(database: Database) -> None:
    conn = database.connect()
    register(conn)
    first, second = put(conn, "started"), put(conn, "started")
    assert sqlstate(conn, FINISH_EXPORT, WORKER, first, 1, "export_a.csv", SHA) is None
    assert column(conn, "select task_id from csv_export") == [first]
    assert sqlstate(conn, FINISH_EXPORT, WORKER, second, 1, "export_a.csv", SHA) == "23505"
    assert (status(conn, first), status(conn, second)) == ("success", "started")


def test_a_settle_said_twice_is_said_once(database: Database) -> None:
    """A worker that lost its connection at the commit can't know, and says it again."""
    conn = database.connect()
    register(conn)
    id, export = put(conn, "started"), put(conn, "started")
    for _ in range(2):
        assert value(conn, "select finish_tasks(%s, %s, '{1}', '{done}')", WORKER, [id]) == []
        assert sqlstate(conn, FINISH_EXPORT, WORKER, export, 1, "export_a.csv", SHA) is None
    assert column(conn, "select task_id from exports") == [export]
