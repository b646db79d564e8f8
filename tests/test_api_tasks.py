"""``/v1/tasks``: what a row shows and to whom, lists, retries, cancelling, the admins' calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.support.api import create, refused, settle
from tests.support.database import Database


def test_the_row_has_every_field_and_times_with_offset(database: Database, reader: Any) -> None:
    id = create(reader)
    settle(database, id, "success", result='{"filename": "x.csv", "rows": 3}', updated_on="2026-01-02 03:04:05+02")
    row = reader("GET", f"/v1/tasks/{id}").json
    assert row.keys() == {
        "id", "type", "data", "status", "worker", "created_at", "updated_on", "created_by", "priority", "run_at",
        "attempt", "failure_count", "crash_count", "started_at", "max_retries", "retry_delay", "unique_key", "result",
        "error", "timeout", "node", "parent", "cancel_requested", "current_step", "progress", "seconds_left",
        "cpu_seconds", "peak_memory",
    }  # fmt: skip
    assert row["result"] == {"filename": "x.csv", "rows": 3}
    assert row["updated_on"] == "2026-01-02T01:04:05+00:00"
    assert (row["max_retries"], row["retry_delay"]) == (0, 10.0), "in force: the type's"


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ("not JSON", "not JSON"),
        ("NaN", "NaN"),
        ('{"ratio": 1e400}', '{"ratio": 1e400}'),
        ('"\\ud800"', "\ud800"),
        ("[" * 5000, "[" * 5000),
    ],
)
def test_a_result_is_shown_whatever_text_it_is(database: Database, reader: Any, stored: str, shown: str) -> None:
    id = create(reader)
    settle(database, id, "success", result=stored)
    assert reader("GET", f"/v1/tasks/{id}").json["result"] == shown


def test_only_an_admin_sees_the_traceback(database: Database, reader: Any, admin: Any) -> None:
    id = create(reader)
    settle(database, id, "failure", error="The disk is full.", error_detail="Traceback …")
    assert "error_detail" not in reader("GET", f"/v1/tasks/{id}").json
    assert reader("GET", f"/v1/tasks/{id}").json["error"] == "The disk is full."
    assert admin("GET", f"/v1/tasks/{id}").json["error_detail"] == "Traceback …"
    assert "error_detail" not in reader("GET", "/v1/tasks").json["list"][0]
    assert admin("GET", "/v1/tasks").json["list"][0]["error_detail"] == "Traceback …"


@pytest.mark.parametrize("path", ["/v1/tasks/{}", "/v1/tasks/{}/retry"])
def test_anothers_task_does_not_exist(reader: Any, as_user: Callable[..., Any], path: str) -> None:
    method = "POST" if path.endswith("retry") else "GET"
    id = create(reader)
    theirs = as_user(2)(method, path.format(id))
    refused(theirs, 404, f"No task exists with ID: {id}")
    nobodys = as_user(2)(method, path.format(10_000))
    assert theirs.text.replace(str(id), "N") == nobodys.text.replace("10000", "N")


def test_anothers_task_is_neither_cancelled_nor_listed(reader: Any, as_user: Callable[..., Any]) -> None:
    id = create(reader)
    refused(as_user(2)("DELETE", f"/v1/tasks/{id}"), 404)
    assert as_user(2)("GET", "/v1/tasks").json == {"list": [], "offset": 0, "pageSize": 50, "totalSize": 0}
    assert reader("GET", f"/v1/tasks/{id}").json["status"] == "fresh"


@pytest.mark.parametrize("id", ["abc", "1.5", "9223372036854775808", "1e3", "%00", "٣", "0x10", " 1"])
def test_an_id_that_is_no_bigint_is_400(reader: Any, id: str) -> None:
    refused(reader("GET", f"/v1/tasks/{id}"), 400)


@pytest.mark.parametrize("id", ["0", "-1", "9223372036854775807"])
def test_an_id_that_nobody_has_is_404(reader: Any, id: str) -> None:
    refused(reader("GET", f"/v1/tasks/{id}"), 404, f"No task exists with ID: {id}")


def test_a_list_is_filtered_sorted_and_paged(database: Database, reader: Any, admin: Any) -> None:
    ids = [create(reader, priority=n) for n in range(5)]
    other = create(admin)
    settle(database, ids[0], "success")
    settle(database, ids[1], "failure")
    page = reader("GET", "/v1/tasks?limit=2&offset=1&sortBy=priority:desc").json
    assert [row["id"] for row in page["list"]] == [ids[3], ids[2]]
    assert (page["offset"], page["pageSize"], page["totalSize"]) == (1, 2, 5)
    for query in ("status=success,failure", "status=success&status=failure"):
        assert {row["id"] for row in reader("GET", f"/v1/tasks?{query}").json["list"]} == set(ids[:2])
    assert [row["id"] for row in reader("GET", "/v1/tasks?sortBy=id").json["list"]] == ids
    assert [row["id"] for row in reader("GET", "/v1/tasks").json["list"]] == ids[::-1]
    assert reader("GET", "/v1/tasks?type=nonsense").json["totalSize"] == 0
    assert {row["id"] for row in admin("GET", "/v1/tasks").json["list"]} == {*ids, other}


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("status=done", "status"), ("limit=0", "limit"), ("limit=501", "limit"), ("limit=x", "limit"),
        ("offset=-1", "offset"), ("offset=9223372036854775808", "offset"), ("sortBy=data", "sortBy"),
        ("sortBy=id:up", "sortBy"), ("page=2", "page"), ("limit=1&limit=2", "limit"), ("type=%00", "type"),
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_400_and_named(reader: Any, query: str, word: str) -> None:
    refused(reader("GET", f"/v1/tasks?{query}"), 400, word)


def test_a_task_is_cancelled_with_204_and_then_retried(reader: Any) -> None:
    id = create(reader)
    response = reader("DELETE", f"/v1/tasks/{id}")
    assert (response.status_code, response.data) == (204, b"")
    refused(reader("DELETE", f"/v1/tasks/{id}"), 409, "cancelled")
    assert reader("POST", f"/v1/tasks/{id}/retry").json["status"] == "fresh"
    refused(reader("POST", f"/v1/tasks/{id}/retry"), 409, "fresh")


def test_a_retry_forgets_the_failures_only_where_asked(database: Database, reader: Any) -> None:
    id = create(reader)
    settle(database, id, "failure", failure_count=3)
    assert reader("POST", f"/v1/tasks/{id}/retry").json["failure_count"] == 3
    settle(database, id, "failure")
    assert reader("POST", f"/v1/tasks/{id}/retry?resetFailureCount=true").json["failure_count"] == 0
    refused(reader("POST", f"/v1/tasks/{id}/retry?resetFailureCount=maybe"), 400, "resetFailureCount")


def test_config_and_resume_are_the_admins(database: Database, reader: Any, admin: Any) -> None:
    id = create(reader)
    refused(reader("PUT", f"/v1/tasks/{id}/config?maxRetries=3"), 403)
    refused(reader("POST", f"/v1/tasks/{id}/resume"), 403)
    row = admin("PUT", f"/v1/tasks/{id}/config?maxRetries=3&retryDelay=2.5").json
    assert (row["max_retries"], row["retry_delay"]) == (3, 2.5)
    refused(admin("PUT", f"/v1/tasks/{id}/config"), 400, "maxRetries")
    refused(admin("PUT", f"/v1/tasks/{id}/config?maxRetries=1001"), 400, "maxRetries")
    refused(admin("POST", f"/v1/tasks/{id}/resume"), 409, "fresh")
    settle(database, id, "crashed")
    assert admin("POST", f"/v1/tasks/{id}/resume").json["status"] == "fresh"


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("PATCH", "/v1/tasks/1", 405)])
def test_an_unknown_route_or_method_is_refused_in_the_same_form(
    client: FlaskClient, method: str, path: str, status: int
) -> None:
    response = client.open(path, method=method)
    refused(response, status)
    assert status != 405 or "GET" in response.headers["Allow"]


def test_a_fault_is_500_with_a_request_id_and_no_trace(
    client: FlaskClient, reader: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: Any, **__: Any) -> None:
        raise RuntimeError("the inside story")

    monkeypatch.setattr("pgfleet.tasks.get", fault)
    response = reader("GET", "/v1/tasks/1", headers={"X-Request-ID": "abc-1"})
    refused(response, 500, "abc-1")
    assert "inside story" not in response.text
    assert response.headers["X-Request-ID"] == "abc-1"
