"""What creating a task and its transitions leave in the row, what no row may say, and the fence."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pgfleet import errors, tasks
from tests.support.database import Database
from tests.support.fleet import (
    OTHER,
    WORKER,
    claim,
    column,
    create,
    put,
    register,
    sqlstate,
    status,
    task,
    value,
)
from tests.support.transitions import FINISH_EXPORT, SHA


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
