"""``/v1/tasks`` over HTTP: what is taken, what is refused and how, and who may see what."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from pgfleet import tokens
from pgfleet.errors import InvalidTask
from pgfleet.settings import Settings
from pgfleet.tasks import Wanted
from pgfleet_api import create_app
from pgfleet_api.creation import LEADERS
from pgfleet_api.state import KEY
from tests.support.database import Database


@pytest.fixture
def client(settings: Settings) -> Iterator[FlaskClient]:
    app = create_app(settings)
    yield app.test_client()
    app.extensions[KEY].close()


@pytest.fixture
def as_user(client: FlaskClient, settings: Settings) -> Callable[..., Any]:
    """``as_user(id, role=None)(method, path, **kw)``: a call with that user's token."""

    def user(id: int, role: str | None = None) -> Callable[..., TestResponse]:
        token = tokens.mint(settings, id, role=role)

        def call(method: str, path: str, **kw: Any) -> TestResponse:
            headers = {"Authorization": f"Bearer {token}", **kw.pop("headers", {})}
            return client.open(path, method=method, headers=headers, **kw)

        return call

    return user


@pytest.fixture
def reader(as_user: Callable[..., Any]) -> Any:
    return as_user(1)


@pytest.fixture
def admin(as_user: Callable[..., Any]) -> Any:
    return as_user(999, "admin")


def refused(response: TestResponse, status: int, *words: str) -> None:
    """The response is an error in our form, and its message says all of ``words``."""
    assert response.status_code == status, response.text
    body = response.json
    assert body is not None
    assert set(body) == {"error", "code", "message"}
    assert body["code"] == str(status)
    for word in words:
        assert word in body["message"]
    assert "Traceback" not in response.text


def create(call: Any, **fields: Any) -> int:
    response = call("POST", "/v1/tasks", json={"type": "csv_export", **fields})
    assert response.status_code == 202, response.text
    return int(response.json["task_id"])


def settle(database: Database, id: int, status: str, **columns: Any) -> None:
    """Put a task into ``status`` behind the fleet's back."""
    with database.connect() as conn:
        conn.execute("update tasks set status = %s, worker = 'w', started_at = now() where id = %s", [status, id])
        for name, value in columns.items():
            conn.execute(f"update tasks set {name} = %s where id = %s", [value, id])  # type: ignore[arg-type]


def test_a_created_task_is_answered_202_with_its_id_and_where_to_poll_it(reader: Any) -> None:
    response = reader("POST", "/v1/tasks", json={"type": "csv_export", "data": {"owner_id": 1}})
    assert response.status_code == 202
    id = response.json["task_id"]
    assert response.json == {"message": "Task created.", "task_id": id}
    assert response.headers["Location"] == f"/v1/tasks/{id}"
    assert reader("GET", response.headers["Location"]).json["status"] == "fresh"


def test_the_notification_comes_after_the_commit_and_carries_the_id(database: Database, reader: Any) -> None:
    listener = database.connect()
    listener.execute("listen task_created")
    id = create(reader)
    heard = next(listener.notifies(timeout=5, stop_after=1))
    assert heard.payload == str(id)


@pytest.mark.parametrize(
    ("data", "stored"),
    [
        ({"title": "Ж\n\"'"}, '{"title": "Ж\\n\\"\'"}'),
        ("plain text, as it is ", "plain text, as it is "),
        ("", ""),
        (None, None),
        ([1, 2], "[1, 2]"),
        (7.5, "7.5"),
        (False, "false"),
    ],
)
def test_text_is_stored_as_it_is_and_all_else_as_its_json(
    database: Database, admin: Any, data: Any, stored: str | None
) -> None:
    with database.connect() as conn:
        conn.execute("insert into task_types (name) values ('any')")
    id = create(admin, type="any", data=data)
    assert admin("GET", f"/v1/tasks/{id}").json["data"] == stored


def test_every_option_reaches_the_row(admin: Any) -> None:
    id = create(admin, priority=-3, run_at="2999-01-01T02:00:00+02:00", max_retries=5, retry_delay=1.5, unique_key="k")
    row = admin("GET", f"/v1/tasks/{id}").json
    assert row["priority"] == -3
    assert row["run_at"] == "2999-01-01T00:00:00+00:00"
    assert (row["status"], row["max_retries"], row["retry_delay"], row["unique_key"]) == ("waiting", 5, 1.5, "k")
    assert admin("GET", f"/v1/tasks/{create(admin, delay=60)}").json["status"] == "waiting"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, ["type is missing"]),
        ({"type": 5}, ["type"]),
        ({"type": ""}, ["type"]),
        ({"type": "nonsense"}, ["nonsense", "csv_export"]),
        ({"type": "csv_export", "colour": 1, "size": 2}, ["colour", "size"]),
        ({"type": "csv_export", "priority": "5"}, ["priority"]),
        ({"type": "csv_export", "priority": True}, ["priority"]),
        ({"type": "csv_export", "priority": 2**31}, ["priority"]),
        ({"type": "csv_export", "max_retries": 1001}, ["max_retries"]),
        ({"type": "csv_export", "max_retries": -1}, ["max_retries"]),
        ({"type": "csv_export", "retry_delay": -1}, ["retry_delay"]),
        ({"type": "csv_export", "retry_delay": 365 * 86_400 + 1}, ["retry_delay"]),
        ({"type": "csv_export", "delay": -0.5}, ["delay"]),
        ({"type": "csv_export", "delay": 1e300}, ["delay"]),
        ({"type": "csv_export", "delay": 1, "run_at": "2030-01-01T00:00:00Z"}, ["run_at", "delay"]),
        ({"type": "csv_export", "run_at": "2030-01-01T00:00:00"}, ["run_at", "offset"]),
        ({"type": "csv_export", "run_at": 1_900_000_000}, ["run_at"]),
        ({"type": "csv_export", "run_at": "2030-02-30T00:00:00Z"}, ["run_at"]),
        ({"type": "csv_export", "run_at": "0001-01-01T00:00:00+14:00"}, ["run_at"]),
        ({"type": "csv_export", "unique_key": ""}, ["unique_key"]),
        ({"type": "csv_export", "unique_key": "a\x00"}, ["unique_key", "NUL"]),
        ({"type": "csv_\x00export"}, ["NUL"]),
        ({"type": "csv_export", "data": "a\x00b"}, ["data", "NUL"]),
        ({"type": "csv_export", "data": {"a": ["\x00"]}}, ["data", "NUL"]),
        ({"type": "csv_export", "data": {"\x00": 1}}, ["data", "NUL"]),
        ({"type": "csv_export", "data": "\ud800"}, ["data", "surrogate"]),
        ({"type": "csv_export", "data": {"a": "\udfff"}}, ["data", "surrogate"]),
        ({"type": "csv_export", "data": {"owner_id": "1"}}, ["owner_id"]),
        ({"type": "csv_export", "data": {"owner_id": True}}, ["owner_id"]),
        ({"type": "csv_export", "data": {"owner_id": 1.0}}, ["owner_id"]),
        ({"type": "csv_export", "data": {"owner_id": None}}, ["owner_id"]),
        ({"type": "csv_export", "data": {"owner_id": 2**63}}, ["owner_id"]),
        ({"type": "csv_export", "data": "no JSON"}, ["data", "JSON object"]),
        ({"type": "csv_export", "data": "[1]"}, ["data", "JSON object"]),
        ({"type": "csv_export", "data": [1]}, ["data", "JSON object"]),
        ({"type": "csv_export", "data": '{"owner_id": 2, "owner_id": 1}'}, ["twice"]),
    ],
)
def test_wrong_content_is_422_and_named(reader: Any, body: Any, words: list[str]) -> None:
    response = reader("POST", "/v1/tasks", data=json.dumps(body), content_type="application/json")
    refused(response, 422, *words)


def test_an_escaped_backslash_before_u0000_is_no_nul(reader: Any) -> None:
    data = {"path": "\\u0000"}
    assert json.loads(reader("GET", f"/v1/tasks/{create(reader, data=data)}").json["data"]) == data


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"{'a': 1}", b'{"type": NaN}', b"\xff\xfe", b'"\xc3\x28"', b"[" * 100_000, b"1" * 5000 + b"}"]
)
def test_broken_json_is_400(reader: Any, raw: bytes) -> None:
    refused(reader("POST", "/v1/tasks", data=raw, content_type="application/json"), 400)


@pytest.mark.parametrize("raw", [b"[]", b"null", b'"csv_export"', b"1"])
def test_json_that_is_no_object_is_422(reader: Any, raw: bytes) -> None:
    refused(reader("POST", "/v1/tasks", data=raw, content_type="application/json"), 422, "JSON object")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_another_content_type_is_415(reader: Any, kind: str | None) -> None:
    refused(reader("POST", "/v1/tasks", data=b'{"type": "csv_export"}', content_type=kind), 415, "application/json")


def test_a_body_over_the_limit_is_413_whether_or_not_it_says_its_length(settings: Settings, reader: Any) -> None:
    body = json.dumps({"type": "csv_export", "data": "x" * settings.api_max_body}).encode()
    refused(reader("POST", "/v1/tasks", data=body, content_type="application/json"), 413, str(settings.api_max_body))
    chunked = {"wsgi.input": io.BytesIO(body), "wsgi.input_terminated": True, "CONTENT_TYPE": "application/json"}
    refused(reader("POST", "/v1/tasks", environ_overrides=chunked), 413, str(settings.api_max_body))


def test_a_body_without_a_length_within_the_limit_is_read(reader: Any) -> None:
    body = io.BytesIO(b'{"type": "csv_export"}')
    chunked = {"wsgi.input": body, "wsgi.input_terminated": True, "CONTENT_TYPE": "application/json"}
    assert reader("POST", "/v1/tasks", environ_overrides=chunked).status_code == 202


def test_readers_create_only_types_marked_for_them(database: Database, reader: Any, admin: Any) -> None:
    with database.connect() as conn:
        conn.execute("insert into task_types (name) values ('sweep')")
    refused(reader("POST", "/v1/tasks", json={"type": "sweep"}), 403, "sweep", "csv_export")
    create(admin, type="sweep")
    response = reader("POST", "/v1/tasks", json={"type": "nonsense"})
    refused(response, 422, "csv_export")
    assert "sweep" not in response.text
    refused(admin("POST", "/v1/tasks", json={"type": "nonsense"}), 422, "csv_export", "sweep")


@pytest.mark.parametrize("data", [{"owner_id": 2}, '{"owner_id": 2}', ' {"a": 1, "owner_id": 2} '])
def test_only_an_admin_exports_somebody_elses_books(reader: Any, admin: Any, data: Any) -> None:
    refused(reader("POST", "/v1/tasks", json={"type": "csv_export", "data": data}), 403, "owner_id")
    row = admin("GET", f"/v1/tasks/{create(admin, data=data)}").json
    assert row["created_by"] == 999
    assert json.loads(row["data"])["owner_id"] == 2


def test_a_refused_task_leaves_no_row(database: Database, reader: Any) -> None:
    reader("POST", "/v1/tasks", json={"type": "nonsense"})
    reader("POST", "/v1/tasks", json={"type": "csv_export", "data": {"owner_id": 2}})
    with database.connect() as conn:
        assert conn.execute("select count(*) from tasks").fetchone() == (0,)


def test_a_unique_key_in_use_answers_200_with_the_task_that_holds_it(reader: Any) -> None:
    id = create(reader, unique_key="mine")
    again = reader("POST", "/v1/tasks", json={"type": "csv_export", "unique_key": "mine"})
    assert (again.status_code, again.json["task_id"]) == (200, id)
    assert again.headers["Location"] == f"/v1/tasks/{id}"


def test_a_unique_key_does_not_give_away_another_readers_task(reader: Any, as_user: Callable[..., Any]) -> None:
    id = create(reader, unique_key="mine")
    response = as_user(2)("POST", "/v1/tasks", json={"type": "csv_export", "unique_key": "mine"})
    refused(response, 409, "unique_key")
    assert str(id) not in response.text


def test_creates_of_many_clients_at_once_are_each_answered_with_their_own_task(
    database: Database, settings: Settings
) -> None:
    app = create_app(settings)

    def post(user: int) -> tuple[int, list[TestResponse]]:
        headers = {"Authorization": f"Bearer {tokens.mint(settings, user)}"}
        client = app.test_client()
        return user, [
            client.post("/v1/tasks", json={"type": kind, "data": {"owner_id": user}}, headers=headers)
            for kind in ["csv_export", "csv_export", "csv_export"] * 10
        ]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(post, range(1, 17)))
    app.extensions[KEY].close()
    with database.connect() as conn:
        owners = dict(conn.execute("select id, created_by from tasks").fetchall())
    assert len(owners) == 16 * 30
    for user, responses in answers:
        assert all(response.status_code == 202 for response in responses)
        assert {owners[response.json["task_id"]] for response in responses if response.json} == {user}


def test_a_task_that_fails_in_a_shared_insert_fails_alone(
    database: Database, settings: Settings, wait_until: Callable[..., Any]
) -> None:
    app = create_app(settings)
    creator = app.extensions[KEY].creator
    answers: dict[int, Any] = {}

    def create_one(user: int, max_retries: int) -> None:
        try:
            answers[user] = creator.create(Wanted("csv_export", None, user, max_retries=max_retries))
        except InvalidTask as error:
            answers[user] = error

    gate, watch = database.connect(), database.connect()
    threads = [threading.Thread(target=create_one, args=(n, 5000 if n == 10 else 0)) for n in range(1, 13)]
    with gate.transaction():
        gate.execute("lock table tasks in access exclusive mode")
        for thread in threads[:LEADERS]:
            thread.start()
        held = (
            "select count(*) from pg_stat_activity where application_name = 'pgfleet api' and wait_event_type = 'Lock'"
        )
        wait_until(lambda: watch.execute(held).fetchone() == (LEADERS,), what="the first inserts at the gate")
        for thread in threads[LEADERS:]:
            thread.start()
        wait_until(lambda: len(creator._waiting) == len(threads) - LEADERS, what="the others queued")
    for thread in threads:
        thread.join(20)
    app.extensions[KEY].close()
    assert isinstance(answers.pop(10), InvalidTask)
    assert len(answers) == 11
    assert all(created for _, created in answers.values())
    assert dict(watch.execute("select created_by, id from tasks").fetchall()) == {u: a[0] for u, a in answers.items()}


def test_the_row_has_every_field_and_times_with_offset(database: Database, reader: Any) -> None:
    id = create(reader)
    settle(database, id, "success", result='{"filename": "x.csv", "rows": 3}', updated_on="2026-01-02 03:04:05+02")
    row = reader("GET", f"/v1/tasks/{id}").json
    assert row.keys() == {
        "id", "type", "data", "status", "worker", "created_at", "updated_on", "created_by", "priority", "run_at",
        "attempt", "failure_count", "crash_count", "started_at", "max_retries", "retry_delay", "unique_key", "result",
        "error",
    }  # fmt: skip
    assert row["result"] == {"filename": "x.csv", "rows": 3}
    assert row["updated_on"] == "2026-01-02T01:04:05+00:00"
    assert (row["max_retries"], row["retry_delay"]) == (0, 10.0), "in force: the type's"


@pytest.mark.parametrize(
    ("stored", "shown"), [("not JSON", "not JSON"), ("NaN", "NaN"), ('"\\ud800"', "\ud800"), ("[" * 5000, "[" * 5000)]
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
