"""``POST /v1/tasks``: what is taken, what is refused and how, and who may create what."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from pgfleet.settings import Settings
from tests.support.api import create, refused
from tests.support.database import Database


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
    heard = next(listener.notifies(timeout=40, stop_after=1))
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
        ({"type": "csv_export", "timeout": 0}, ["timeout"]),
        ({"type": "csv_export", "timeout": 365 * 86_400 + 1}, ["timeout"]),
        ({"type": "csv_export", "timeout": "1 hour"}, ["timeout"]),
        ({"type": "csv_export", "node": ""}, ["node"]),
        ({"type": "csv_export", "node": "a\x00"}, ["node", "NUL"]),
        ({"type": "csv_export", "unique_key": ""}, ["unique_key", "1 or more"]),
        ({"type": "csv_export", "unique_key": "k" * 201}, ["unique_key", "201 characters", "at most 200"]),
        ({"type": "csv_export", "\ud800": 1}, ["name"]),
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
    ("raw", "word"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"{'a': 1}", "no JSON"),
        (b'{"type": NaN}', "NaN"),
        (b"\xff\xfe", "UTF-8"),
        (b'"\xc3\x28"', "UTF-8"),
        (b"[" * 100_000, "deeply"),
        (b"1" * 5000 + b"}", "digits"),
        (b'{"type": "csv_export", "priority": 1, "priority": 2}', "'priority' is given twice"),
        (b'{"type": "csv_export", "data": {"a": {"b": 1, "b": 1}}}', "'b' is given twice"),
    ],
)
def test_broken_json_is_400(reader: Any, raw: bytes, word: str) -> None:
    response = reader("POST", "/v1/tasks", data=raw, content_type="application/json")
    refused(response, 400, word)
    assert "sys." not in response.text


@pytest.mark.parametrize("raw", [b"[]", b"null", b'"csv_export"', b"1"])
def test_json_that_is_no_object_is_422(reader: Any, raw: bytes) -> None:
    refused(reader("POST", "/v1/tasks", data=raw, content_type="application/json"), 422, "JSON object")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_another_content_type_is_415(reader: Any, kind: str | None) -> None:
    refused(reader("POST", "/v1/tasks", data=b'{"type": "csv_export"}', content_type=kind), 415, "application/json")


def test_a_coded_body_is_415_and_told_to_come_as_it_is(reader: Any) -> None:
    body = gzip.compress(b'{"type": "csv_export"}')
    response = reader(
        "POST",
        "/v1/tasks",
        data=body,
        content_type="application/json",
        environ_overrides={"HTTP_CONTENT_ENCODING": "gzip"},
    )
    refused(response, 415, "gzip")
    assert response.headers["Accept-Encoding"] == "identity"


def test_a_parameter_where_none_is_taken_is_400_and_nothing_is_done(reader: Any, database: Database) -> None:
    id = create(reader)
    refused(reader("POST", "/v1/tasks?priority=5", json={"type": "csv_export"}), 400, "'priority'", "body")
    refused(reader("DELETE", f"/v1/tasks/{id}?force=true"), 400, "'force'")
    assert reader("GET", f"/v1/tasks/{id}?_=1").json["status"] == "fresh"
    with database.connect() as conn:
        assert conn.execute("select count(*) from tasks").fetchone() == (1,)


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


def test_a_reader_sets_a_timeout_but_only_an_admin_the_node(database: Database, reader: Any, admin: Any) -> None:
    assert reader("GET", f"/v1/tasks/{create(reader, timeout=1.5)}").json["timeout"] == 1.5
    refused(reader("POST", "/v1/tasks", json={"type": "csv_export", "node": "server-7"}), 403, "admin", "node")
    row = admin("GET", f"/v1/tasks/{create(admin, node='server-7', timeout=0.001)}").json
    assert (row["node"], row["timeout"]) == ("server-7", 0.001)
    with database.connect() as conn:
        assert conn.execute("select count(*) from tasks where node is not null").fetchone() == (1,)


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
