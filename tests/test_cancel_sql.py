"""Calling off: at once what no worker has, by request what one is at; progress and checkpoints of what runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pgfleet import tasks
from tests.support.database import Database
from tests.support.fleet import (
    OTHER,
    WORKER,
    Blocked,
    Connection,
    claim,
    column,
    create,
    executions,
    lapse,
    put,
    register,
    sqlstate,
    status,
    task,
    value,
)

END = "select end_cancelled(%s, %s, %s)"


def test_a_started_task_is_cancelled_only_when_its_worker_says_that_the_work_has_stopped(database: Database) -> None:
    conn = database.connect()
    register(conn)
    id = put(conn, "started")
    assert tasks.cancel(conn, id) == "started"
    asked = task(conn, id)
    assert (asked["status"], asked["worker"], asked["cancel_requested_at"] is not None) == ("started", WORKER, True)
    assert sqlstate(conn, "select end_cancelled(%s, %s, 1, 0.25, 4096)", WORKER, id) is None
    row = task(conn, id)
    assert (row["status"], row["worker"], row["started_at"]) == ("cancelled", WORKER, asked["started_at"])
    assert (row["cpu_seconds"], row["peak_memory"], row["failure_count"], row["crash_count"]) == (0.25, 4096, 0, 0)


def test_asking_again_answers_the_same_and_leaves_the_time_of_the_first(database: Database) -> None:
    conn = database.connect()
    register(conn)
    id = put(conn, "started")
    tasks.cancel(conn, id)
    first = task(conn, id)["cancel_requested_at"]
    assert tasks.cancel(conn, id) == "started"
    assert task(conn, id)["cancel_requested_at"] == first


def test_the_holder_is_notified_and_finds_the_task_among_its_orders(database: Database) -> None:
    conn, ear = database.connect(), database.connect()
    register(conn)
    register(conn, OTHER)
    called_off, other = put(conn, "started"), put(conn, "started")
    ear.execute("listen worker_orders")
    tasks.cancel(conn, called_off)
    ear.execute("select 1")
    assert [notice.payload for notice in ear.notifies(timeout=0)] == [WORKER]
    orders = "select orders, cancelled, attempts from worker_orders(%s)"
    assert conn.execute(orders, [WORKER]).fetchone() == ("work", [called_off], [1])
    assert conn.execute(orders, [OTHER]).fetchone() == ("work", [], [])
    conn.execute(END, [WORKER, called_off, 1])
    assert conn.execute(orders, [WORKER]).fetchone() == ("work", [], [])
    assert status(conn, other) == "started"


@pytest.mark.parametrize("state", ["unknown", "lost"])
def test_a_worker_that_is_none_has_no_orders(database: Database, state: str) -> None:
    conn = database.connect()
    if state == "lost":
        register(conn)
        lapse(conn)
        conn.execute("select rescue_tasks()")
    assert sqlstate(conn, "select worker_orders(%s)", WORKER) == "PF005"


def test_work_that_is_done_before_its_worker_hears_is_a_success(database: Database) -> None:
    conn = database.connect()
    register(conn)
    id = put(conn, "started")
    tasks.cancel(conn, id)
    assert value(conn, "select finish_tasks(%s, %s, '{1}', '{done}')", WORKER, [id]) == []
    assert (status(conn, id), task(conn, id)["result"]) == ("success", "done")


def test_no_worker_can_cancel_a_task_that_nobody_called_off(database: Database) -> None:
    conn = database.connect()
    register(conn)
    id = put(conn, "started")
    assert sqlstate(conn, END, WORKER, id, 1) == "PF003"
    assert status(conn, id) == "started"


def test_the_end_said_twice_is_said_once_and_said_by_another_is_refused(database: Database) -> None:
    conn = database.connect()
    register(conn)
    id = put(conn, "started")
    tasks.cancel(conn, id)
    assert sqlstate(conn, END, OTHER, id, 1) == "PF004"
    assert sqlstate(conn, END, WORKER, id, 2) == "PF004"
    assert [sqlstate(conn, END, WORKER, id, 1) for _ in range(2)] == [None, None]
    assert sqlstate(conn, END, OTHER, id, 1) == "PF004"
    assert sqlstate(conn, END, WORKER, id, 2) == "PF004"


ENDS: dict[str, Callable[[Connection, int], object]] = {
    "fail_task": lambda c, id: c.execute("select fail_task(%s, %s, 1, 'told to stop', 'trace')", [WORKER, id]),
    "release_tasks": lambda c, id: c.execute("select release_tasks(%s, %s, '{1}', '5 seconds')", [WORKER, [id]]),
    "deregister_worker": lambda c, id: c.execute("select deregister_worker(%s)", [WORKER]),
    "rescue_tasks": lambda c, id: (lapse(c), c.execute("select rescue_tasks()")),
}


@pytest.mark.parametrize("end", ENDS)
def test_whatever_ends_an_attempt_that_was_called_off_cancels_the_task_and_never_starts_another(
    database: Database, end: str
) -> None:
    conn = database.connect()
    register(conn)
    id = put(conn, "started", max_retries=5)
    before = task(conn, id)
    tasks.cancel(conn, id)
    ENDS[end](conn, id)
    row = task(conn, id)
    assert (row["status"], row["worker"], row["started_at"]) == ("cancelled", WORKER, before["started_at"])
    assert (row["failure_count"], row["crash_count"]) == (0, 1 if end == "rescue_tasks" else 0)
    assert row["run_at"] is None
    assert [one["status"] for one in executions(conn, id)] == ["cancelled"]


def test_a_request_and_a_failure_that_meet_end_as_cancelled(database: Database) -> None:
    operator, worker = database.connect(), database.connect()
    register(operator)
    id = put(operator, "started", max_retries=5)
    with operator.transaction():
        tasks.cancel(operator, id)
        failing = Blocked(
            database.connect(),
            worker,
            lambda: value(worker, "select status from fail_task(%s, %s, 1, 'broke')", WORKER, id),
        )
    assert failing.result() == "cancelled"
    assert task(worker, id)["failure_count"] == 0


def test_a_release_that_meets_a_request_cancels(database: Database) -> None:
    operator, worker = database.connect(), database.connect()
    register(operator)
    called_off, other = put(operator, "started"), put(operator, "started")
    with operator.transaction():
        tasks.cancel(operator, called_off)
        release = Blocked(
            database.connect(),
            worker,
            lambda: value(worker, "select release_tasks(%s, %s, '{1,1}')", WORKER, [called_off, other]),
        )
    assert release.result() == 2
    assert [status(worker, id) for id in (called_off, other)] == ["cancelled", "fresh"]
    assert column(worker, "select task_id from task_attempts") == [other]


def test_a_request_that_meets_the_end_of_the_work_is_refused_with_what_it_came_to(database: Database) -> None:
    operator, worker = database.connect(), database.connect()
    register(operator)
    id = put(operator, "started")
    with worker.transaction():
        worker.execute("select finish_tasks(%s, %s, '{1}', null)", [WORKER, [id]])
        late = Blocked(database.connect(), operator, lambda: sqlstate(operator, "select cancel_task(%s)", id))
    assert late.result() == "PF003"


def test_a_retry_of_what_was_called_off_is_not_called_off(database: Database) -> None:
    conn = database.connect()
    register(conn)
    id = put(conn, "started")
    tasks.cancel(conn, id)
    conn.execute(END, [WORKER, id, 1])
    tasks.retry(conn, id)
    assert claim(conn) == [id]
    assert task(conn, id)["cancel_requested_at"] is None
    assert sqlstate(conn, END, WORKER, id, 2) == "PF003"


# Progress and checkpoints

PROGRESS = "select progress_task(%s, %s, %s, %s, %s, %s)"
CHECKPOINT = "select checkpoint_task(%s, %s, %s, %s)"
REPORTED = ("progress", "current_step", "checkpoint")


def reported(conn: Connection, id: int) -> tuple[object, ...]:
    row = task(conn, id)
    return tuple(row[name] for name in REPORTED)


def test_a_report_stands_in_the_row_and_tells_of_a_request_to_cancel(database: Database) -> None:
    conn = database.connect()
    register(conn)
    id = put(conn, "started")
    assert value(conn, PROGRESS, WORKER, id, 1, 0.25, "reading", "1 hour") is False
    assert value(conn, CHECKPOINT, WORKER, id, 1, '{"page": 3}') is False
    assert reported(conn, id) == (0.25, "reading", '{"page": 3}')
    assert 3000 < value(conn, "select extract(epoch from eta - now()) from tasks where id = %s", id) <= 3600
    tasks.cancel(conn, id)
    assert value(conn, PROGRESS, WORKER, id, 1, None, None, None) is True
    assert value(conn, CHECKPOINT, WORKER, id, 1, "4") is True
    assert (*reported(conn, id), task(conn, id)["eta"]) == (None, None, "4", None)


@pytest.mark.parametrize(("worker", "attempt"), [(OTHER, 1), (WORKER, 0), (WORKER, 2)])
def test_only_the_attempt_that_holds_a_task_reports_on_it(database: Database, worker: str, attempt: int) -> None:
    conn = database.connect()
    register(conn)
    id = put(conn, "started")
    before = task(conn, id)
    assert sqlstate(conn, PROGRESS, worker, id, attempt, 0.5, None, None) == "PF004"
    assert sqlstate(conn, CHECKPOINT, worker, id, attempt, "x") == "PF004"
    assert task(conn, id) == before


@pytest.mark.parametrize("progress", [-0.1, 1.1, "NaN", "Infinity"])
def test_progress_beyond_the_whole_is_refused(database: Database, progress: float | str) -> None:
    conn = database.connect()
    register(conn)
    assert sqlstate(conn, PROGRESS, WORKER, put(conn, "started"), 1, progress, None, None) == "PF006"


def test_an_estimate_beyond_all_time_is_a_year(database: Database) -> None:
    conn = database.connect()
    register(conn)
    id = put(conn, "started")
    conn.execute(PROGRESS, [WORKER, id, 1, 0.0001, None, "100000000 days"])
    assert value(conn, "select eta - updated_on from tasks").days == 365


def test_a_checkpoint_and_the_progress_outlive_failures_and_lost_workers_and_serve_the_next_attempt(
    database: Database,
) -> None:
    conn = database.connect()
    register(conn)
    register(conn, OTHER)
    id = create(conn, max_retries=1)
    claim(conn)
    conn.execute(PROGRESS, [WORKER, id, 1, 0.5, "half", "1 second"])
    conn.execute(CHECKPOINT, [WORKER, id, 1, "half"])
    conn.execute("select fail_task(%s, %s, 1, 'broke', retry_in => '0')", [WORKER, id])
    conn.execute("select promote_tasks()")
    assert value(conn, "select checkpoint from claim_tasks(%s, '{job}', 1)", WORKER) == "half"
    lapse(conn)
    conn.execute("select rescue_tasks()")
    assert (*reported(conn, id), task(conn, id)["eta"]) == (0.5, "half", "half", None)
    assert value(conn, "select checkpoint from claim_tasks(%s, '{job}', 1)", OTHER) == "half"
    conn.execute("select release_tasks(%s, %s, '{3}')", [OTHER, [id]])
    assert reported(conn, id) == (0.5, "half", "half")


def test_a_resume_goes_on_from_the_checkpoint_and_a_retry_begins_from_nothing(database: Database) -> None:
    conn = database.connect()
    register(conn)
    resumed, retried = put(conn, "started"), put(conn, "started")
    for id in (resumed, retried):
        conn.execute(PROGRESS, [WORKER, id, 1, 0.5, "half", "1 second"])
        conn.execute(CHECKPOINT, [WORKER, id, 1, "half"])
    conn.execute("update tasks set crash_count = 2, failure_count = 1")
    lapse(conn)
    conn.execute("select rescue_tasks()")
    assert [status(conn, id) for id in (resumed, retried)] == ["crashed", "crashed"]
    tasks.resume(conn, resumed)
    tasks.retry(conn, retried)
    assert [reported(conn, id) for id in (resumed, retried)] == [(0.5, "half", "half"), (None, None, None)]
    for id in (resumed, retried):
        row = task(conn, id)
        assert (row["crash_count"], row["failure_count"], row["attempt"], row["error"]) == (0, 1, 1, None)
        assert [one["status"] for one in executions(conn, id)] == ["crashed"]


def test_a_success_is_wholly_done_and_needs_its_checkpoint_no_more(database: Database) -> None:
    conn = database.connect()
    register(conn)
    ids = told, untold = put(conn, "started"), put(conn, "started")
    conn.execute(PROGRESS, [WORKER, told, 1, 0.9, "nearly", "1 second"])
    conn.execute(CHECKPOINT, [WORKER, told, 1, "nearly"])
    assert value(conn, "select finish_tasks(%s, %s, '{1,1}', '{null,done}')", WORKER, list(ids)) == []
    assert [reported(conn, id) for id in (told, untold)] == [(1, "nearly", None), (None, None, None)]
    assert task(conn, told)["eta"] is None
