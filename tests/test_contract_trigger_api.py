"""The trigger API (``/api/v1/backgroundtasks``), as its contract has it, request by request and word by word."""

from __future__ import annotations

import dataclasses
import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pgfleet import schedules, tokens
from pgfleet.settings import Settings
from pgfleet_api import create_app
from pgfleet_api.state import KEY
from tests.support.api import settle
from tests.support.database import Database
from tests.support.fleet import OTHER, WORKER, column, lapse, register
from tests.support.processes import Processes

ROOT = "/api/v1/backgroundtasks"
TS = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d:\d{3}[+-]\d{4}")
BUSY = "Job currently in running state, please try after sometime"


def put(database: Database, name: str = "data-sync", **fields: Any) -> None:
    given = {"group": "sync", "description": "Fetches what is new.", **fields}
    schedules.put(database.connect(), schedules.Schedule(name, "csv_export", **given))


def envelope(response: Any) -> dict[str, Any]:
    """The response's envelope without what differs each time, which is as it must be."""
    assert response.content_type == "application/json"
    body: dict[str, Any] = response.json
    assert list(body) == ["id", "ver", "ts", "params", "responseCode", "result"]
    assert list(body["params"]) == ["resmsgid", "msgid", "err", "status", "errmsg"]
    ts = body.pop("ts")
    assert TS.fullmatch(ts)
    said = datetime.strptime(f"{ts[:20]}{ts[20:23]}000{ts[23:]}", "%Y-%m-%d %H:%M:%S:%f%z")
    assert abs(datetime.now(UTC) - said) < timedelta(minutes=1)
    assert body["params"].pop("msgid") == response.headers["X-Request-ID"]
    return body


def success(id: str, result: Any) -> dict[str, Any]:
    params = {"resmsgid": None, "err": None, "status": "success", "errmsg": None}
    return {"id": id, "ver": "v1", "params": params, "responseCode": "OK", "result": {"response": result}}


def failure(response: Any, status: int, err: str, code: str, id: str = "api.backgroundtasks.trigger") -> str:
    """The response is that failure, in the contract's envelope; answers its errmsg."""
    assert response.status_code == status, response.text
    body = envelope(response)
    errmsg: str = body["params"].pop("errmsg")
    assert body == {
        "id": id,
        "ver": "v1",
        "params": {"resmsgid": None, "err": err, "status": "failure"},
        "responseCode": code,
        "result": {},
    }
    assert errmsg
    return errmsg


def test_get_lists_the_live_registry(database: Database, admin: Any) -> None:
    put(database)
    response = admin("GET", ROOT, headers={"X-Request-ID": "8e27cbf5-e299-43b0-bca7-8347f7e5abcf"})
    assert response.status_code == 200
    assert response.json["params"]["msgid"] == "8e27cbf5-e299-43b0-bca7-8347f7e5abcf"
    task = {"taskGroup": "sync", "taskName": "data-sync", "description": "Fetches what is new."}
    assert envelope(response) == success("api.backgroundtasks.read", [task])


def test_the_registry_holds_what_live_code_declares_and_what_workers_keep_in_memory(
    database: Database, admin: Any
) -> None:
    put(database, "by-hand")
    put(database, "kept", declared=True)
    put(database, "dropped", declared=True)
    conn = database.connect()
    refresh = {"name": "refresh", "group": "cache", "description": "Refreshes."}
    for worker in (WORKER, OTHER):
        register(conn, worker)
        schedules.declare(conn, worker, names=["kept"], in_memory=[refresh])
    listed = admin("GET", ROOT).json["result"]["response"]
    assert [task["taskName"] for task in listed] == ["by-hand", "kept", "refresh"]
    assert listed[2] == {"taskGroup": "cache", "taskName": "refresh", "description": "Refreshes."}
    for worker in (WORKER, OTHER):
        lapse(conn, worker)
    assert [task["taskName"] for task in admin("GET", ROOT).json["result"]["response"]] == [
        "by-hand",
        "dropped",
        "kept",
    ]


def test_a_registry_of_many_pages_is_listed_whole(
    database: Database, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgfleet_api.trigger_api.PAGE", 2)
    for number in range(5):
        put(database, f"task {number}")
    assert len(admin("GET", ROOT).json["result"]["response"]) == 5


def test_post_triggers_a_task_and_answers_success(database: Database, admin: Any) -> None:
    put(database)
    response = admin("POST", f"{ROOT}/trigger/data-sync")
    assert response.status_code == 200
    assert envelope(response) == success("api.backgroundtasks.trigger", "SUCCESS")
    assert column(database.connect(), "select schedule from tasks") == ["data-sync"]


def test_what_runs_already_is_400_job_already_running(database: Database, admin: Any) -> None:
    put(database)
    admin("POST", f"{ROOT}/trigger/data-sync")
    response = admin("POST", f"{ROOT}/trigger/data-sync")
    assert failure(response, 400, "JOB_ALREADY_RUNNING", "CLIENT_ERROR") == BUSY
    (id,) = column(database.connect(), "select id from tasks")
    settle(database, id, "started")
    assert failure(admin("POST", f"{ROOT}/trigger/data-sync"), 400, "JOB_ALREADY_RUNNING", "CLIENT_ERROR") == BUSY
    settle(database, id, "success")
    assert admin("POST", f"{ROOT}/trigger/data-sync").status_code == 200


@pytest.mark.parametrize("name", ["nobody", "a%00", "%ED%A0%80", "é", "x" * 500])
def test_what_is_unknown_is_404_resource_not_found(admin: Any, name: str) -> None:
    failure(admin("POST", f"{ROOT}/trigger/{name}"), 404, "RESOURCE_NOT_FOUND", "RESOURCE_NOT_FOUND")


def test_what_no_live_code_declares_any_more_is_unknown_and_not_started(database: Database, admin: Any) -> None:
    put(database, "kept", declared=True)
    put(database, "dropped", declared=True)
    conn = database.connect()
    register(conn)
    schedules.declare(conn, WORKER, names=["kept"], in_memory=[])
    response = admin("POST", f"{ROOT}/trigger/dropped")
    assert "stale" in failure(response, 404, "RESOURCE_NOT_FOUND", "RESOURCE_NOT_FOUND")
    assert schedules.get(conn, "dropped").last_task is None
    assert admin("POST", f"{ROOT}/trigger/kept").status_code == 200


def test_what_a_worker_keeps_in_memory_is_not_triggered_from_outside(database: Database, admin: Any) -> None:
    conn = database.connect()
    register(conn)
    schedules.declare(conn, WORKER, names=[], in_memory=[{"name": "refresh"}])
    response = admin("POST", f"{ROOT}/trigger/refresh")
    assert "in memory" in failure(response, 404, "RESOURCE_NOT_FOUND", "RESOURCE_NOT_FOUND")


def test_not_an_admin_or_nobody_is_401_unauthorized(database: Database, client: Any, reader: Any) -> None:
    put(database)
    forged = {"Authorization": "Bearer x"}
    for method, path, id in (
        ("GET", ROOT, "api.backgroundtasks.read"),
        ("POST", f"{ROOT}/trigger/data-sync", "api.backgroundtasks.trigger"),
        ("POST", f"{ROOT}/trigger/nobody", "api.backgroundtasks.trigger"),
    ):
        for response in (
            reader(method, path),
            client.open(path, method=method),
            client.open(path, method=method, headers=forged),
        ):
            failure(response, 401, "UNAUTHORIZED", "UNAUTHORIZED", id)
            assert "data-sync" not in response.text
    assert column(database.connect(), "select id from tasks") == []


def test_a_database_that_is_away_is_told_in_the_envelope(settings: Settings, admin_token: str) -> None:
    away = create_app(dataclasses.replace(settings, database_url="postgresql://nobody@127.0.0.1:1/none")).test_client()
    response = away.get(ROOT, headers={"Authorization": f"Bearer {admin_token}"})
    failure(response, 503, "SERVER_ERROR", "SERVER_ERROR", "api.backgroundtasks.read")
    assert response.headers["Retry-After"]


@pytest.fixture
def served(settings: Settings) -> Iterator[Callable[..., Any]]:
    """``served(rule, peer, admin=False, headers={})``: what a read is answered that comes from that peer."""
    made = []

    def read(rule: str, peer: str, *, admin: bool = False, headers: dict[str, str] | None = None) -> Any:
        app = create_app(dataclasses.replace(settings, trigger_api=rule))
        made.append(app)
        token = {"Authorization": f"Bearer {tokens.mint(settings, 999, role='admin')}"} if admin else {}
        return app.test_client().get(ROOT, headers={**token, **(headers or {})}, environ_base={"REMOTE_ADDR": peer})

    yield read
    for app in made:
        app.extensions[KEY].close()


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_loopback_serves_this_machine_without_a_token(served: Callable[..., Any], peer: str) -> None:
    assert served("loopback", peer).status_code == 200
    assert served("admins", peer).status_code == 401
    assert served("loopback-admins", peer).status_code == 401
    assert served("loopback-admins", peer, admin=True).status_code == 200


@pytest.mark.parametrize("peer", ["10.0.0.1", "192.168.1.2", "::2", "::ffff:10.0.0.1", "", "localhost", "unix:"])
@pytest.mark.parametrize("rule", ["loopback", "loopback-admins"])
def test_loopback_serves_no_other_peer_whoever_it_says_it_is(served: Callable[..., Any], rule: str, peer: str) -> None:
    headers = {
        "X-Forwarded-For": "127.0.0.1",
        "X-Real-IP": "127.0.0.1",
        "Forwarded": "for=127.0.0.1",
        "Host": "localhost",
    }
    for given in ({}, headers):
        response = served(rule, peer, admin=True, headers=given)
        failure(response, 401, "UNAUTHORIZED", "UNAUTHORIZED", "api.backgroundtasks.read")
    assert served("admins", peer, admin=True).status_code == 200


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Real-IP", "Forwarded", "Via"])
def test_loopback_does_not_serve_what_a_proxy_on_this_machine_hands_on(served: Callable[..., Any], header: str) -> None:
    for rule in ("loopback", "loopback-admins"):
        assert served(rule, "127.0.0.1", admin=True, headers={header: "127.0.0.1"}).status_code == 401


def test_loopback_without_a_token_does_not_serve_web_pages(served: Callable[..., Any]) -> None:
    for headers in (
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-origin"},
    ):
        assert served("loopback", "127.0.0.1", headers=headers).status_code == 401


def test_the_real_server_knows_its_peers_by_their_connections(database: Database, processes: Processes) -> None:
    put(database)
    api = processes.start("api", "--port", "0", env={"PGFLEET_TRIGGER_API": "loopback"})
    url = api.wait_for_event("api.listening", 30)["url"]
    request = urllib.request.Request(f"{url}{ROOT}/trigger/data-sync", method="POST")
    with urllib.request.urlopen(request, timeout=40) as answer:
        assert json.loads(answer.read())["result"] == {"response": "SUCCESS"}
    assert api.stop() == 0
