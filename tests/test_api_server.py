"""The API as a process: it serves, ends gracefully, survives the database's absence, and dies with its parent."""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import signal
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgfleet import migrate, tasks, tokens
from pgfleet.crowd import FEW
from pgfleet.db import Connection
from pgfleet.settings import Settings
from pgfleet_api import create_app
from pgfleet_api.connections import Connections
from pgfleet_api.creation import Creator
from pgfleet_api.notifier import Notifier
from pgfleet_api.places import for_bodies, for_keyed
from pgfleet_api.state import KEY
from tests.support.database import Database
from tests.support.processes import Process, Processes

#: Of the API, on this test's own database: others run beside it on the same server.
SESSIONS = "from pg_stat_activity where application_name = 'pgfleet api' and datname = current_database()"


def call(process: Process, token: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    request = urllib.request.Request(
        process.url + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=40) as answer:
            return answer.status, json.loads(answer.read() or "null")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_a_task_is_created_over_http_and_a_listener_hears_of_it(
    database: Database, processes: Processes, reader_token: Callable[..., str]
) -> None:
    listener = database.connect()
    listener.execute("listen task_created")
    api = processes.start("api", "--port", "0")
    api.url = api.wait_for_event("api.listening")["url"]
    status, body = call(api, reader_token(1), "POST", "/v1/tasks", {"type": "csv_export"})
    assert status == 202
    assert next(listener.notifies(timeout=40, stop_after=1)).payload == str(body["task_id"])
    assert call(api, reader_token(1), "GET", f"/v1/tasks/{body['task_id']}")[1]["status"] == "fresh"
    assert api.stop() == 0


def test_a_chunked_body_over_the_limit_is_413(processes: Processes, reader_token: Callable[..., str]) -> None:
    api = processes.api(env={"PGFLEET_API_MAX_BODY": "2048"})
    conn = http.client.HTTPConnection(api.url.removeprefix("http://"), timeout=40)
    headers = {"Authorization": f"Bearer {reader_token(1)}", "Content-Type": "application/json"}
    for size, expected in ((100, 202), (4096, 413)):
        body = json.dumps({"type": "csv_export", "data": json.dumps({"a": "x" * size})}).encode()
        conn.request("POST", "/v1/tasks", iter([body[:50], body[50:]]), headers, encode_chunked=True)
        response = conn.getresponse()
        assert (response.status, json.loads(response.read()).get("code")) == (
            expected,
            "413" if expected > 400 else None,
        )
        conn.close()


def test_dots_in_a_raw_path_lead_nowhere(processes: Processes, reader_token: Callable[..., str]) -> None:
    api = processes.api()
    host, port = api.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=40) as conn:
        conn.sendall(
            b"GET /v1/files/../../../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Authorization: Bearer " + reader_token(1).encode() + b"\r\n\r\n"
        )
        answer = b"".join(iter(lambda: conn.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"root:" not in answer


def test_a_request_under_way_is_answered_before_a_graceful_end(
    database: Database, processes: Processes, reader_token: Callable[..., str], wait_until: Callable[..., Any]
) -> None:
    api = processes.api()
    gate = database.connect()
    with gate.transaction():
        gate.execute("lock table tasks in access exclusive mode")
        answers: list[Any] = []
        asked = threading.Thread(
            target=lambda: answers.append(call(api, reader_token(1), "POST", "/v1/tasks", {"type": "csv_export"}))
        )
        asked.start()
        waiting = f"select count(*) {SESSIONS} and wait_event_type = 'Lock'"
        watch = database.connect()
        wait_until(lambda: watch.execute(waiting).fetchone() == (1,), what="the insert at the gate")
        api.signal(signal.SIGTERM)
    asked.join(40)
    assert answers
    assert answers[0][0] == 202
    assert api.wait() == 0


def test_a_killed_api_leaves_no_child_on_its_port(processes: Processes, wait_until: Callable[..., Any]) -> None:
    api = processes.api()
    os.kill(api.pid, signal.SIGKILL)
    api.wait()
    port = int(api.url.rsplit(":", 1)[1])

    def refused() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    wait_until(refused, what="nobody on the port")


def test_a_taken_port_or_an_unmigrated_database_ends_the_command_with_a_hint(
    processes: Processes, settings: Settings, empty_database: Database
) -> None:
    api = processes.api()
    second = processes.start("api", "--port", api.url.rsplit(":", 1)[1])
    assert second.wait() == 1
    assert "--port" in second.text()
    bare = processes.start(
        "api", "--port", "0", settings=dataclasses.replace(settings, database_url=empty_database.url)
    )
    assert bare.wait() == 1
    assert "pgfleet migrate" in bare.text()


def test_without_a_secret_the_command_ends_with_a_hint(processes: Processes) -> None:
    api = processes.start("api", "--port", "0", env={"PGFLEET_AUTH_SECRET_KEY": ""})
    assert api.wait() == 1
    assert "PGFLEET_AUTH_SECRET_KEY" in api.text()


def test_an_absent_database_is_503_and_all_is_well_when_it_is_back(
    own_postgres: Any, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    with psycopg.connect(own_postgres.url("postgres"), autocommit=True) as conn:
        conn.execute("create database away")
    settings = Settings(database_url=own_postgres.url("away"), auth_secret_key="s" * 32, export_dir=tmp_path)
    migrate.migrate(settings)
    app = create_app(settings)
    client = app.test_client()
    headers = {"Authorization": f"Bearer {tokens.mint(settings, 1)}"}

    def post() -> Any:
        return client.post("/v1/tasks", json={"type": "csv_export"}, headers=headers)

    assert post().status_code == 202
    own_postgres.stop()
    for response in (post(), client.get("/v1/tasks", headers=headers), client.get("/v1/files", headers=headers)):
        assert response.status_code == 503
        assert response.headers["Retry-After"]
        assert response.json["message"] == "The database is away."
    assert client.get("/health").status_code == 200
    own_postgres.start()
    wait_until(lambda: post().status_code == 202, what="a task created again")
    app.extensions[KEY].close()


def test_a_connection_lost_while_idle_costs_no_request(
    database: Database, settings: Settings, reader_token: Callable[..., str], wait_until: Callable[..., Any]
) -> None:
    app = create_app(settings)
    client = app.test_client()
    headers = {"Authorization": f"Bearer {reader_token(1)}"}
    assert client.get("/v1/tasks", headers=headers).status_code == 200
    with database.connect() as conn:
        ended = f"select count(pg_terminate_backend(pid)) {SESSIONS}"
        assert conn.execute(ended).fetchone() == (1,)
        left = f"select count(*) {SESSIONS}"
        wait_until(lambda: conn.execute(left).fetchone() == (0,), what="the connection's end")
    assert client.get("/v1/tasks", headers=headers).status_code == 200
    app.extensions[KEY].close()


def test_a_statement_cut_off_by_the_database_is_503(
    database: Database, settings: Settings, reader_token: Callable[..., str], wait_until: Callable[..., Any]
) -> None:
    app = create_app(settings)
    gate, watch = database.connect(), database.connect()
    answers: list[Any] = []
    headers = {"Authorization": f"Bearer {reader_token(1)}"}
    with gate.transaction():
        gate.execute("lock table tasks in access exclusive mode")
        asked = threading.Thread(target=lambda: answers.append(app.test_client().get("/v1/tasks", headers=headers)))
        asked.start()
        end = f"select pg_terminate_backend(pid) {SESSIONS} and wait_event_type = 'Lock'"
        wait_until(lambda: watch.execute(end).fetchall(), what="the query at the gate")
        asked.join(40)
    assert answers[0].status_code == 503
    app.extensions[KEY].close()


def test_ids_that_come_while_a_notification_is_under_way_share_the_next(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[list[int]] = []
    gate, first = threading.Event(), threading.Event()

    def notify(_: Any, ids: list[int]) -> int:
        if ids:
            sent.append(ids)
            first.set()
            assert gate.wait(40)
        return 1

    monkeypatch.setattr("pgfleet.tasks.notify", notify)
    notifier = Notifier(settings)
    notifier.tell([(1, ("job", None))])
    assert first.wait(40)
    for id in (2, 3, 4):
        notifier.tell([(id, ("job", None))])
    gate.set()
    notifier.stop()
    assert sent == [[1], [2, 3, 4]]


@pytest.mark.parametrize("asleep", [FEW, FEW + 1])
def test_an_insert_wakes_a_few_by_itself_and_of_many_only_the_first_after_a_pause_does(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, asleep: int
) -> None:
    sent: list[Sequence[int]] = []

    def notify(conn: Connection, ids: Sequence[int]) -> int:
        sent.append(ids)
        return notify_for_real(conn, ids)

    notify_for_real = tasks.notify
    monkeypatch.setattr("pgfleet.tasks.notify", notify)
    monkeypatch.setattr("pgfleet.crowd.QUIET", 1.0)
    monkeypatch.setattr("pgfleet.crowd.MOST_QUIET", 1.0)
    listener = database.connect()
    listener.execute("listen task_created")
    for n in range(asleep):
        listener.execute("select register_worker(%s, 'n', '{job}', 1, '1 hour', 'test')", [f"w:{n}"])
        listener.execute("select set_sleeping(%s, true)", [f"w:{n}"])
    connections, notifier = Connections(settings), Notifier(settings)
    creator = Creator(connections, notifier, for_keyed(settings.api_threads, for_bodies(settings.api_threads)))
    wanted = tasks.Wanted("job", None, 1, any_type=True)
    ids = [answer[0] for answer in (creator.create(wanted) for _ in range(3)) if answer is not None]
    heard = [int(n.payload) for n in listener.notifies(timeout=40, stop_after=3)]
    notifier.stop()
    connections.close()
    assert heard == ids
    assert [list(some) for some in sent if some] == ([] if asleep <= FEW else [ids[1:]])


def test_notifications_are_dropped_while_the_database_is_away_and_nothing_waits(settings: Settings) -> None:
    notifier = Notifier(dataclasses.replace(settings, database_url="postgresql://nobody@127.0.0.1:1/none"))
    before = set(threading.enumerate())
    notifier.tell([(1, ("job", None))])
    (started,) = set(threading.enumerate()) - before
    notifier.stop()
    assert not started.is_alive()


def test_a_forked_process_has_a_notifier_of_its_own(database: Database, settings: Settings) -> None:
    listener = database.connect()
    listener.execute("listen task_created")
    notifier = Notifier(settings)
    notifier.tell([(1, ("job", None))])
    assert next(listener.notifies(timeout=40, stop_after=1)).payload == "1"
    child = os.fork()
    if child == 0:
        notifier.tell([(2, ("job", None))])
        notifier.stop()
        os._exit(0)
    os.waitpid(child, 0)
    notifier.tell([(3, ("job", None))])
    notifier.stop()
    assert [n.payload for n in listener.notifies(timeout=40, stop_after=2)] == ["2", "3"]


def test_a_forked_process_may_tell_the_fleet_although_its_parent_just_did(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgfleet_api.notifier.PAUSE", 600.0)
    notifier = Notifier(dataclasses.replace(settings, database_url="postgresql://nobody@127.0.0.1:1/none"))
    assert notifier.take_turn([("job", None)])
    assert not notifier.take_turn([("job", None)])
    child = os.fork()
    if child == 0:
        os._exit(0 if notifier.take_turn([("job", None)]) else 1)
    _, status = os.waitpid(child, 0)
    notifier.stop()
    assert os.waitstatus_to_exitcode(status) == 0
