"""What operators and browsers need: probes, metrics, the document, its page, CORS."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from pgfleet import sql
from pgfleet.settings import Settings
from pgfleet_api import create_app
from pgfleet_api.state import KEY
from tests.support.database import Database
from tests.support.fleet import OTHER, create, register

ORIGIN = "https://books.example.org"


@pytest.fixture
def client(settings: Settings) -> Iterator[FlaskClient]:
    app = create_app(dataclasses.replace(settings, cors_origins=(ORIGIN + "/", "http://localhost:5173")))
    yield app.test_client()
    app.extensions[KEY].close()


def test_health_asks_nothing_of_the_database_and_ready_does(settings: Settings) -> None:
    away = create_app(dataclasses.replace(settings, database_url="postgresql://nobody@127.0.0.1:1/none")).test_client()
    assert away.get("/health").status_code == 200
    response = away.get("/ready")
    assert response.status_code == 503
    assert response.headers["Retry-After"]
    assert response.get_json()["message"] == "The database is away."
    assert "pgfleet_database_up 0" in away.get("/metrics").text


def test_ready_stays_so_where_another_version_has_migrated_since(database: Database, client: FlaskClient) -> None:
    with database.connect() as conn:
        conn.execute("update pgfleet_migrations set checksum = 'of another version' where number = 0")
        assert client.get("/ready").get_json() == {"status": "ready"}
        conn.execute("insert into pgfleet_migrations (number, name, checksum) values (9999, '9999_newer', 'x')")
        assert client.get("/ready").get_json() == {"status": "ready"}


def test_ready_is_503_where_the_schema_lacks_what_this_version_needs(database: Database, client: FlaskClient) -> None:
    with database.connect() as conn:
        conn.execute("drop function claim_tasks")
    response = client.get("/ready")
    assert (response.status_code, response.get_json()["code"]) == (503, "503")


def test_metrics_count_requests_by_route_and_unfinished_tasks(
    client: FlaskClient, reader_token: Callable[..., str]
) -> None:
    headers = {"Authorization": f"Bearer {reader_token(1)}"}
    id = client.post("/v1/tasks", json={"type": "csv_export"}, headers=headers).get_json()["task_id"]
    for _ in range(2):
        client.get(f"/v1/tasks/{id}", headers=headers)
    client.open("/nowhere", method="BREW")
    text = client.get("/metrics").text
    assert 'pgfleet_http_requests_total{method="GET",route="/v1/tasks/<id>",status="200"} 2' in text
    assert 'pgfleet_tasks{status="fresh",type="csv_export"} 1' in text
    assert "pgfleet_workers 0" in text
    assert "BREW" not in text, "what a client makes up is no label"
    sample = re.compile(r"[a-z_]+(\{([a-z]+=\"[^\"]*\",?)+\})? [0-9.]+")
    assert all(line.startswith("# ") or sample.fullmatch(line) for line in text.splitlines())


def test_metrics_tell_of_workers_by_status_and_how_long_the_first_in_line_waits(
    database: Database, client: FlaskClient
) -> None:
    conn = database.connect()
    register(conn)
    register(conn, OTHER)
    conn.execute("update workers set orders = 'pause' where id = %s", [OTHER])
    for priority, age in ((9, 1), (5, 3000), (5, 1), (1, 2)):
        id = create(conn, priority=priority)
        conn.execute("update tasks set created_at = now() - %s * interval '1 second' where id = %s", [age, id])
    create(conn, node="elsewhere")
    conn.execute("update tasks set created_at = now() - interval '1 day' where node is not null")
    text = client.get("/metrics").text
    for line in (
        'pgfleet_tasks{status="fresh",type="job"} 5',
        "pgfleet_workers 2",
        'pgfleet_workers_by_status{status="live"} 1',
        'pgfleet_workers_by_status{status="paused"} 1',
        'pgfleet_workers_by_status{status="draining"} 0',
        'pgfleet_workers_by_status{status="lost"} 0',
    ):
        assert f"\n{line}\n" in text
    (oldest,) = re.findall(r'\npgfleet_oldest_fresh_seconds\{type="job"\} ([0-9.]+)\n', text)
    assert 3000 <= float(oldest) < 3600, "not the first of the most urgent priority alone, nor one that names a node"


def test_metrics_read_no_finished_task(database: Database) -> None:
    conn = database.connect()
    conn.execute(
        "insert into tasks (type, status, created_by) select 'job', 'success', 0 from generate_series(1, 20000)"
    )
    conn.execute("analyze tasks")
    for name, query in sql.queries("metrics").items():
        plan = "\n".join(row[0] for row in conn.execute("explain " + query))  # type: ignore[operator]
        assert "Seq Scan on tasks" not in plan, f"{name}:\n{plan}"


def test_the_document_describes_every_route_and_all_its_references_lead_somewhere(client: FlaskClient) -> None:
    document: Any = client.get("/openapi.json").get_json()
    assert document["openapi"] == "3.1.0"
    routes = {
        (re.sub(r"<(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in client.application.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    described = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert described == routes - {("/docs", "get")}
    schemas = document["components"]["schemas"]
    for reference in re.findall(r'"\$ref": "([^"]+)"', json.dumps(document)):
        assert reference.removeprefix("#/components/schemas/") in schemas
    ids = [op["operationId"] for methods in document["paths"].values() for op in methods.values()]
    assert len(set(ids)) == len(ids)
    for path, methods in document["paths"].items():
        for op in methods.values():
            assert {p["name"] for p in op["parameters"] if p["in"] == "path"} == set(re.findall(r"{(\w+)}", path))
            assert all(response["description"] for response in op["responses"].values())
    assert schemas["NewTask"]["additionalProperties"] is False
    assert set(document["paths"]["/v1/tasks"]["post"]["responses"]) >= {
        "200", "202", "400", "401", "403", "413", "415", "422", "503",
    }  # fmt: skip


def test_the_page_runs_only_its_own_script_and_reaches_no_other_host(client: FlaskClient) -> None:
    response = client.get("/docs")
    policy, page = response.headers["Content-Security-Policy"], response.text
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "http://" not in page
    assert "https://" not in page
    assert "innerHTML" not in page


def test_a_preflight_from_a_configured_origin_is_answered_without_a_token(client: FlaskClient) -> None:
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    response = client.options("/v1/tasks", headers=asked)
    assert (response.status_code, response.data) == (204, b"")
    assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert {"GET", "POST"} <= set(response.headers["Access-Control-Allow-Methods"].split(", "))
    for header in ("Authorization", "Content-Type", "If-None-Match"):
        assert header in response.headers["Access-Control-Allow-Headers"]
    assert "Origin" in response.headers["Vary"]


def test_answers_and_errors_alike_may_be_read_by_a_configured_origin(client: FlaskClient) -> None:
    for path, status in (("/health", 200), ("/v1/tasks", 401), ("/nothing", 404)):
        response = client.get(path, headers={"Origin": ORIGIN})
        assert response.status_code == status
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
        for header in ("Location", "ETag", "Content-Disposition"):
            assert header in response.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize("origin", ["https://evil.example", ORIGIN + ".evil.example", "null", ORIGIN.upper()])
def test_no_other_origin_is_allowed(client: FlaskClient, origin: str) -> None:
    for response in (
        client.get("/health", headers={"Origin": origin}),
        client.options("/v1/tasks", headers={"Origin": origin, "Access-Control-Request-Method": "POST"}),
    ):
        assert not any(name.lower().startswith("access-control") for name, _ in response.headers)


def test_no_origin_is_allowed_by_default(settings: Settings) -> None:
    response = create_app(settings).test_client().get("/health", headers={"Origin": ORIGIN})
    assert "Access-Control-Allow-Origin" not in response.headers


def test_a_request_id_is_passed_through_or_made(client: FlaskClient) -> None:
    assert client.get("/health", headers={"X-Request-ID": "abc-1"}).headers["X-Request-ID"] == "abc-1"
    made = {client.get("/health").headers["X-Request-ID"] for _ in range(3)}
    assert len(made) == 3
    assert client.get("/health", headers={"X-Request-ID": 'a"b c'}).headers["X-Request-ID"] != 'a"b c'
