"""``DELETE /v1/tasks/<id>``, its attempts' history and its progress, as readers and admins see them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import structlog

from tests.support.api import create, refused, settle
from tests.support.database import Database
from tests.support.fleet import OTHER, WORKER, claim, lapse, register, task


def started(database: Database, call: Any, **fields: Any) -> tuple[Any, int]:
    """A connection, and the id of a reader's export that WORKER has started."""
    conn = database.connect()
    register(conn, types=["csv_export"])
    id = create(call, **fields)
    assert claim(conn, types=["csv_export"]) == [id]
    return conn, id


def test_a_running_task_is_202_and_cancelled_when_its_worker_says_so(database: Database, reader: Any) -> None:
    conn, id = started(database, reader)
    for _ in range(2):
        response = reader("DELETE", f"/v1/tasks/{id}")
        assert response.status_code == 202
        assert response.json == {"message": "Cancellation requested.", "task_id": id}
        assert response.headers["Location"] == f"/v1/tasks/{id}"
    row = reader("GET", f"/v1/tasks/{id}").json
    assert (row["status"], row["cancel_requested"]) == ("started", True)
    conn.execute("select end_cancelled(%s, %s, 1)", [WORKER, id])
    row = reader("GET", f"/v1/tasks/{id}").json
    assert (row["status"], row["cancel_requested"]) == ("cancelled", False)
    refused(reader("DELETE", f"/v1/tasks/{id}"), 409, "cancelled")


def test_what_somebody_does_to_a_task_or_a_worker_is_logged_with_who_it_was(
    database: Database, reader: Any, admin: Any
) -> None:
    conn, id = started(database, reader)
    with structlog.testing.capture_logs() as logged:
        reader("DELETE", f"/v1/tasks/{id}")
        conn.execute("select end_cancelled(%s, %s, 1)", [WORKER, id])
        reader("POST", f"/v1/tasks/{id}/retry")
        reader("DELETE", f"/v1/tasks/{id}")
        conn.execute("update tasks set status = 'crashed' where id = %s", [id])
        admin("POST", f"/v1/tasks/{id}/resume")
        admin("PUT", f"/v1/tasks/{id}/config?maxRetries=1")
        admin("POST", f"/v1/workers/{WORKER}/pause")
    told = [line for line in logged if line["log_level"] == "info"]
    assert [(line["event"], line["user"]) for line in told] == [
        ("task.cancel_requested", 1), ("task.retried", 1), ("task.cancelled", 1),
        ("task.resumed", 999), ("task.configured", 999), ("worker.ordered", 999),
    ]  # fmt: skip
    assert {(line["task"], line["type"], line["attempt"]) for line in told[:5]} == {(id, "csv_export", 1)}
    assert (told[0]["worker"], told[5]["worker"], told[5]["orders"]) == (WORKER, WORKER, "pause")


def test_its_worker_is_told_of_the_cancellation(database: Database, reader: Any) -> None:
    conn, id = started(database, reader)
    conn.execute("listen worker_orders")
    reader("DELETE", f"/v1/tasks/{id}")
    assert next(conn.notifies(timeout=40, stop_after=1)).payload == WORKER


def test_a_running_task_is_not_cancelled_by_another_reader(
    database: Database, reader: Any, as_user: Callable[..., Any]
) -> None:
    _, id = started(database, reader)
    refused(as_user(2)("DELETE", f"/v1/tasks/{id}"), 404, f"No task exists with ID: {id}")
    assert reader("GET", f"/v1/tasks/{id}").json["cancel_requested"] is False


def test_each_attempt_leaves_an_execution(database: Database, reader: Any, admin: Any) -> None:
    conn, id = started(database, reader)
    lapse(conn)
    conn.execute("select rescue_tasks()")
    register(conn, OTHER, types=["csv_export"])
    assert claim(conn, worker=OTHER, types=["csv_export"]) == [id]
    conn.execute("select fail_task(%s, %s, 2, 'The disk is full.', 'Traceback …', cpu_seconds => 0.5)", [OTHER, id])
    page = reader("GET", f"/v1/tasks/{id}/executions").json
    assert (page["offset"], page["pageSize"], page["totalSize"]) == (0, 50, 2)
    last, first = page["list"]
    assert last.keys() == {
        "attempt", "worker", "status", "started_at", "ended_at", "error", "cpu_seconds", "peak_memory"
    }  # fmt: skip
    assert (first["attempt"], first["worker"], first["status"], first["error"]) == (1, WORKER, "lost", None)
    assert (last["attempt"], last["worker"], last["status"], last["error"]) == (
        2,
        OTHER,
        "failure",
        "The disk is full.",
    )
    assert (last["cpu_seconds"], last["peak_memory"]) == (0.5, None)
    assert first["started_at"] <= first["ended_at"] <= last["started_at"] <= last["ended_at"]
    assert last["ended_at"].endswith("+00:00")
    for_admin = admin("GET", f"/v1/tasks/{id}/executions").json["list"][0]
    assert (for_admin["node"], for_admin["error_detail"]) == ("node", "Traceback …")


def test_an_execution_that_runs_has_no_end_and_not_the_last_ones_error(database: Database, reader: Any) -> None:
    conn, id = started(database, reader, max_retries=1)
    conn.execute("select fail_task(%s, %s, 1, 'The disk is full.', retry_in => '0')", [WORKER, id])
    page = reader("GET", f"/v1/tasks/{id}/executions").json
    assert ([row["status"] for row in page["list"]], page["totalSize"]) == (["failure"], 1)
    conn.execute("select promote_tasks()")
    assert claim(conn, types=["csv_export"]) == [id]
    running, failed = reader("GET", f"/v1/tasks/{id}/executions").json["list"]
    assert (running["attempt"], running["status"]) == (2, "started")
    assert (running["ended_at"], running["error"]) == (None, None)
    assert (failed["attempt"], failed["error"]) == (1, "The disk is full.")


def test_a_task_that_never_started_has_no_executions(reader: Any) -> None:
    assert reader("GET", f"/v1/tasks/{create(reader)}/executions").json == {
        "list": [], "offset": 0, "pageSize": 50, "totalSize": 0
    }  # fmt: skip


def test_executions_are_paged_and_their_sum_is_told_past_the_end(database: Database, reader: Any) -> None:
    conn, id = started(database, reader)
    for attempt in (1, 2):
        conn.execute("select release_tasks(%s, %s, %s)", [WORKER, [id], [attempt]])
        assert claim(conn, types=["csv_export"]) == [id]
    page = reader("GET", f"/v1/tasks/{id}/executions?limit=1&offset=1").json
    assert [(row["attempt"], row["status"]) for row in page["list"]] == [(2, "released")]
    assert (page["offset"], page["pageSize"], page["totalSize"]) == (1, 1, 3)
    past = reader("GET", f"/v1/tasks/{id}/executions?offset=7").json
    assert (past["list"], past["totalSize"]) == ([], 3)
    refused(reader("GET", f"/v1/tasks/{id}/executions?limit=0"), 400, "limit")
    refused(reader("GET", f"/v1/tasks/{id}/executions?status=lost"), 400, "status")


def test_anothers_executions_do_not_exist(database: Database, reader: Any, as_user: Callable[..., Any]) -> None:
    _, id = started(database, reader)
    refused(as_user(2)("GET", f"/v1/tasks/{id}/executions"), 404, f"No task exists with ID: {id}")
    refused(reader("GET", "/v1/tasks/4711/executions"), 404, "No task exists with ID: 4711")
    refused(reader("GET", "/v1/tasks/x/executions"), 400)


def test_a_reader_sees_how_far_a_running_task_is(database: Database, reader: Any) -> None:
    conn, id = started(database, reader)
    row = reader("GET", f"/v1/tasks/{id}").json
    assert (row["progress"], row["current_step"], row["seconds_left"]) == (None, None, None)
    conn.execute("select progress_task(%s, %s, 1, 0.25, 'writing', '90 seconds')", [WORKER, id])
    row = reader("GET", f"/v1/tasks/{id}").json
    assert (row["progress"], row["current_step"]) == (0.25, "writing")
    assert 0 < row["seconds_left"] <= 90
    settle(database, id, "started", eta="2020-01-01")
    assert reader("GET", f"/v1/tasks/{id}").json["seconds_left"] == 0, "never below"
    settle(database, id, "failure", eta="2999-01-01")
    assert reader("GET", f"/v1/tasks/{id}").json["seconds_left"] is None, "only while it runs"


def test_only_an_admin_sees_the_checkpoint(database: Database, reader: Any, admin: Any) -> None:
    conn, id = started(database, reader)
    conn.execute("select checkpoint_task(%s, %s, 1, %s)", [WORKER, id, '{"page": 7}'])
    assert "checkpoint" not in reader("GET", f"/v1/tasks/{id}").json
    assert admin("GET", f"/v1/tasks/{id}").json["checkpoint"] == {"page": 7}


def test_a_resumed_task_keeps_its_checkpoint_and_a_retried_one_does_not(database: Database, admin: Any) -> None:
    ids = create(admin), create(admin)
    for id, verb, kept in zip(ids, ("resume", "retry"), ("[7]", None), strict=True):
        settle(database, id, "crashed", checkpoint="[7]", crash_count=3, attempt=3)
        row = admin("POST", f"/v1/tasks/{id}/{verb}").json
        assert (row["status"], row["crash_count"]) == ("fresh", 0)
        assert task(database.connect(), id)["checkpoint"] == kept


@pytest.mark.parametrize(("own", "shown"), [(None, 3600.0), ("90 seconds", 90.0)])
def test_the_timeout_in_force_is_the_tasks_own_or_its_types(
    database: Database, reader: Any, own: str | None, shown: float
) -> None:
    id = create(reader)
    with database.connect() as conn:
        conn.execute("update task_types set timeout = '1 hour'")
        conn.execute("update tasks set timeout = %s", [own])
    assert reader("GET", f"/v1/tasks/{id}").json["timeout"] == shown
