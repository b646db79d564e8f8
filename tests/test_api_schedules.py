"""``/v1/schedules``, ``/v1/events`` and ``/v1/firing``: what starts by itself, for admins."""

from __future__ import annotations

import json
from typing import Any

import pytest
import structlog

from pgfleet import schedules
from tests.support.api import refused
from tests.support.database import Database
from tests.support.fleet import OTHER, WORKER, claim, lapse, register, task, value

NIGHTLY = {
    "type": "csv_export",
    "data": {"owner_id": 3},
    "triggers": [
        {"kind": "cron", "cron": "0 2 * * *"},
        {"kind": "interval", "every": 90.5, "fixed_delay": True},
        {"kind": "event", "event": "library.imported"},
        {"kind": "once", "after": 60},
        {"kind": "once", "at": "2090-01-31T09:30:00+01:00"},
    ],
    "group": "exports",
    "description": "Each night.",
    "priority": 5,
    "max_retries": 2,
    "retry_delay": 1.5,
    "timeout": 60,
    "node": "server-7",
    "overlap": "queue",
    "catch_up": "all",
    "catch_up_limit": 10,
    "time_zone": "Europe/Stockholm",
}


def put(admin: Any, name: str = "nightly", **fields: Any) -> Any:
    response = admin("PUT", f"/v1/schedules/{name}", json={"type": "csv_export", **fields})
    assert response.status_code in (200, 201), response.text
    return response.json


def keep(database: Database, *told: Any, worker: str = WORKER) -> None:
    """Have a live worker tell of schedules that it keeps in memory."""
    conn = database.connect()
    register(conn, worker)
    schedules.declare(conn, worker, names=[], in_memory=list(told))


def test_a_schedule_is_shown_as_it_was_put_and_putting_it_anew_changes_nothing(admin: Any) -> None:
    made = admin("PUT", "/v1/schedules/nightly", json=NIGHTLY)
    assert made.status_code == 201
    row = made.json
    assert {name: row[name] for name in NIGHTLY if name not in ("triggers", "data")} == {
        name: value for name, value in NIGHTLY.items() if name not in ("triggers", "data")
    }
    assert (row["name"], json.loads(row["data"]), row["created_by"], row["enabled"]) == (
        "nightly",
        {"owner_id": 3},
        999,
        True,
    )
    assert (row["persistent"], row["storage"], row["worker"], row["stale"]) == (True, "Storage", None, False)
    cron, every, event, after, at = row["triggers"]
    assert (cron["kind"], cron["cron"]) == ("cron", "0 2 * * *")
    assert cron["due_at"].endswith(("T00:00:00+00:00", "T01:00:00+00:00"))  # 02:00 in Stockholm
    assert (every["every"], every["fixed_delay"]) == (90.5, True)
    assert (event["event"], event["due_at"]) == ("library.imported", None)
    assert (after["after"], at["due_at"]) == (60, "2090-01-31T08:30:00+00:00")
    assert row["next_due"] == after["due_at"]
    again = admin("PUT", "/v1/schedules/nightly", json=NIGHTLY)
    assert (again.status_code, again.json) == (200, row)
    assert admin("GET", "/v1/schedules/nightly").json == row


def test_what_a_body_leaves_out_gets_its_default_but_enabled_stays(admin: Any) -> None:
    admin("PUT", "/v1/schedules/nightly", json={**NIGHTLY, "enabled": False})
    row = put(admin)
    assert (row["triggers"], row["group"], row["time_zone"], row["overlap"]) == ([], "default", "UTC", "skip")
    assert (row["max_retries"], row["node"], row["data"], row["enabled"]) == (None, None, None, False)
    assert put(admin, enabled=True, created_by=0, all_nodes=True)["created_by"] == 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"triggers": [{"kind": "cron", "cron": "61 * * * *"}]}, ["61 * * * *", "minute"]),
        ({"triggers": [{"kind": "cron", "cron": "* * *"}]}, ["* * *"]),
        ({"triggers": [{"kind": "cron", "cron": "0 0 30 2 *"}]}, ["0 0 30 2 *"]),
        ({"triggers": [{"kind": "cron", "cron": "@often"}]}, ["@often"]),
        ({"triggers": [{"kind": "cron", "cron": "0 2 * * *"}], "time_zone": "Mars/Olympus"}, ["Mars/Olympus"]),
        ({"time_zone": "../../etc/passwd"}, ["time zone"]),
        ({"triggers": [{"kind": "moon"}]}, ["triggers.0"]),
        ({"triggers": [{"kind": "cron", "cron": "@daily", "every": 3}]}, ["every"]),
        ({"triggers": [{"kind": "interval"}]}, ["every"]),
        ({"triggers": [{"kind": "interval", "every": 0}]}, ["every"]),
        ({"triggers": [{"kind": "interval", "every": 1e300}]}, ["every"]),
        ({"triggers": [{"kind": "once"}]}, ["at or after"]),
        ({"triggers": [{"kind": "once", "at": "2030-01-31T09:30:00+01:00", "after": 3}]}, ["at or after"]),
        ({"triggers": [{"kind": "once", "at": "2030-01-31T09:30:00"}]}, ["offset"]),
        ({"triggers": [{"kind": "event", "event": "é"}]}, ["event"]),
        ({"triggers": [{"kind": "event", "event": "a\x00"}]}, ["NUL"]),
        ({"all_nodes": True, "node": "server-7"}, ["exclude"]),
        ({"overlap": "always"}, ["overlap"]),
        ({"catch_up_limit": 0}, ["catch_up_limit"]),
        ({"type": "dance"}, ["dance"]),
        ({"data": {"owner_id": "x"}}, ["owner_id"]),
        ({"data": ["\x00"]}, ["NUL"]),
        ({"often": 1}, ["often", "known are"]),
    ],
)
def test_a_schedule_that_can_not_be_is_refused_by_what_is_wrong(
    database: Database, admin: Any, fields: dict[str, Any], words: list[str]
) -> None:
    refused(admin("PUT", "/v1/schedules/x", json={"type": "csv_export", **fields}), 422, *words)
    assert value(database.connect(), "select count(*) from schedules") == 0


@pytest.mark.parametrize("name", ["-", "a ", "é", "x" * 101])
def test_a_name_that_no_schedule_can_have_is_refused(admin: Any, name: str) -> None:
    refused(admin("PUT", f"/v1/schedules/{name}", json={"type": "csv_export"}), 422, "name")


@pytest.mark.parametrize("name", ["pgfleet.purge", "pgfleet.mine"])
def test_a_name_of_the_fleets_own_is_refused(admin: Any, name: str) -> None:
    refused(admin("PUT", f"/v1/schedules/{name}", json={"type": "csv_export"}), 422, name, "the fleet's own")
    refused(admin("GET", f"/v1/schedules/{name}"), 404)
    refused(admin("GET", "/v1/schedules/a%00"), 404)
    refused(admin("PUT", "/v1/schedules/a%00", json={"type": "csv_export"}), 422, "name", "NUL")


def test_schedules_are_listed_by_name_and_filters_combine(database: Database, admin: Any) -> None:
    for name, group, enabled in (("b", "x", True), ("a", "x", False), ("c", "y", True)):
        put(admin, name, group=group, enabled=enabled)

    def names(query: str) -> tuple[list[str], int]:
        page = admin("GET", f"/v1/schedules?{query}").json
        return [row["name"] for row in page["list"]], page["totalSize"]

    assert names("") == (["a", "b", "c"], 3)
    assert names("group=x") == (["a", "b"], 2)
    assert names("group=x&enabled=true") == (["b"], 1)
    assert names("type=dance") == ([], 0)
    assert names("limit=1&offset=1") == (["b"], 3)
    assert names("offset=100") == ([], 3)
    refused(admin("GET", "/v1/schedules?enabled=perhaps"), 400, "enabled")
    refused(admin("GET", "/v1/schedules?colour=red"), 400, "colour")


def test_a_schedule_dropped_from_the_code_is_shown_as_stale(database: Database, admin: Any) -> None:
    conn = database.connect()
    schedules.put(conn, schedules.Schedule("old", "csv_export", declared=True))
    put(admin, "mine")
    assert admin("GET", "/v1/schedules/old").json["stale"] is False  # no worker lives that could declare it
    register(conn)
    assert admin("GET", "/v1/schedules/old").json["stale"] is True
    assert [row["name"] for row in admin("GET", "/v1/schedules?stale=true").json["list"]] == ["old"]
    assert [row["name"] for row in admin("GET", "/v1/schedules?stale=false").json["list"]] == ["mine"]


def test_schedules_in_memory_follow_those_that_are_stored(database: Database, admin: Any) -> None:
    put(admin, "zebra")
    refresh = {
        "name": "refresh",
        "group": "cache",
        "triggers": [{"kind": "interval", "every": 300, "due_at": "2030-01-01T01:00:00+01:00"}],
        "successes": 7,
        "status": "running",
    }
    keep(database, refresh, {"name": "sweep"})
    keep(database, refresh, worker=OTHER)
    page = admin("GET", "/v1/schedules").json
    assert [(row["name"], row["storage"], row["worker"]) for row in page["list"]] == [
        ("zebra", "Storage", None),
        ("refresh", "Memory", OTHER),
        ("refresh", "Memory", WORKER),
        ("sweep", "Memory", WORKER),
    ]
    one = admin("GET", "/v1/schedules/refresh").json
    assert one == page["list"][1]
    assert (one["persistent"], one["group"], one["node"]) == (False, "cache", "node")
    assert (one["successes"], one["running"]) == (7, 1)
    assert (one["next_due"], one["triggers"][0]["every"]) == ("2030-01-01T00:00:00+00:00", 300)
    assert one.keys() == page["list"][0].keys()
    for query, found in (("persistent=true", 1), ("persistent=false", 3), ("group=cache", 2), ("stale=true", 0)):
        assert admin("GET", f"/v1/schedules?{query}").json["totalSize"] == found
    pages = [admin("GET", f"/v1/schedules?limit=2&offset={n}").json for n in (0, 2, 4)]
    assert [row for page in pages for row in page["list"]] == page["list"]
    assert {page["totalSize"] for page in pages} == {4}
    lapse(database.connect())
    assert admin("GET", "/v1/schedules/sweep").status_code == 404


def test_what_a_worker_told_wrongly_counts_as_not_told(database: Database, admin: Any) -> None:
    wrong = {"triggers": ["x", {"kind": 3, "every": "often", "due_at": "soon"}], "successes": "many", "last_run_at": 5}
    keep(database, "x", 3, {}, {"name": 5}, {"name": "odd", **wrong})
    (row,) = admin("GET", "/v1/schedules").json["list"]
    assert (row["name"], row["successes"], row["last_run_at"]) == ("odd", 0, None)


@pytest.mark.parametrize(
    "call", ["DELETE /v1/schedules/x", *(f"POST /v1/schedules/x/{verb}" for verb in ("enable", "trigger"))]
)
def test_a_schedule_in_memory_is_changed_by_its_code_alone(database: Database, admin: Any, call: str) -> None:
    refused(admin(*call.split()), 404, '"x"')
    keep(database, {"name": "x"})
    refused(admin(*call.split()), 409, "in memory")


def test_operators_disable_enable_and_remove(database: Database, admin: Any) -> None:
    put(admin, triggers=[{"kind": "interval", "every": 3600}])
    row = admin("POST", "/v1/schedules/nightly/disable").json
    assert (row["enabled"], row["next_due"]) == (False, None)
    row = admin("POST", "/v1/schedules/nightly/enable").json
    assert row["enabled"] is True
    assert row["next_due"]
    assert admin("DELETE", "/v1/schedules/nightly").status_code == 204
    refused(admin("DELETE", "/v1/schedules/nightly"), 404, "nightly")
    refused(admin("GET", "/v1/schedules/nightly/runs"), 404, "nightly")


def test_a_run_by_hand_is_a_task_and_refused_while_one_is_unfinished(database: Database, admin: Any) -> None:
    put(admin, data={"owner_id": 3}, priority=4, timeout=5, triggers=[{"kind": "interval", "every": 3600}])
    due = admin("GET", "/v1/schedules/nightly").json["next_due"]
    made = admin("POST", "/v1/schedules/nightly/trigger")
    id = made.json["task_id"]
    assert (made.status_code, made.headers["Location"]) == (202, f"/v1/tasks/{id}")
    refused(admin("POST", "/v1/schedules/nightly/trigger"), 409, "not finished")
    page = admin("GET", "/v1/schedules/nightly/runs").json
    assert page == {**page, "offset": 0, "pageSize": 50, "totalSize": 1}
    assert page["list"] == [admin("GET", f"/v1/tasks/{id}").json]
    assert (page["list"][0]["priority"], page["list"][0]["created_by"], page["list"][0]["status"]) == (4, 999, "fresh")
    assert admin("GET", "/v1/schedules/nightly/runs?offset=5").json["totalSize"] == 1
    row = admin("GET", "/v1/schedules/nightly").json
    assert (row["running"], row["last_task"], row["next_due"]) == (1, id, due)


def test_what_somebody_does_to_schedules_is_logged_with_who_it_was(database: Database, admin: Any) -> None:
    with structlog.testing.capture_logs() as logged:
        put(admin)
        admin("POST", "/v1/schedules/nightly/disable")
        admin("POST", "/v1/schedules/nightly/enable")
        id = admin("POST", "/v1/schedules/nightly/trigger").json["task_id"]
        admin("POST", "/v1/events/e")
        admin("PUT", "/v1/firing", json={"stopped": True})
        admin("PUT", "/v1/firing", json={"stopped": False})
        admin("DELETE", "/v1/schedules/nightly")
        admin("DELETE", "/v1/schedules/nightly")
    told = [line for line in logged if line["log_level"] == "info"]
    assert [line["event"] for line in told] == [
        "schedule.put", "schedule.disabled", "schedule.enabled", "schedule.triggered", "event.emitted", "firing.stopped",
        "firing.started", "schedule.removed",
    ]  # fmt: skip
    assert {line["user"] for line in told} == {999}
    assert (told[3]["schedule"], told[3]["task"], told[4]["name"]) == ("nightly", id, "e")


@pytest.mark.parametrize("payload", [{"books": [1, {"é": None}]}, ["a"], "a text", 3.5, None])
def test_an_events_payload_reaches_each_task_it_makes(database: Database, admin: Any, payload: Any) -> None:
    put(admin, "one", data={"owner_id": 3}, triggers=[{"kind": "event", "event": "library.imported"}])
    put(admin, "two", triggers=[{"kind": "event", "event": "library.imported"}])
    put(admin, "other", triggers=[{"kind": "event", "event": "else"}])
    response = admin("POST", "/v1/events/library.imported", json=payload)
    assert (response.status_code, response.json) == (202, {"event": "library.imported", "tasks": 2, "held": False})
    conn = database.connect()
    event = {"name": "library.imported", "payload": payload}
    data = json.loads(value(conn, "select data from tasks where schedule = 'one'"))
    assert data == {"owner_id": 3, "event": event}
    assert json.loads(value(conn, "select data from tasks where schedule = 'two'"))["event"] == event


def test_an_event_needs_no_payload_but_a_name_and_json_that_can_be_stored(admin: Any) -> None:
    assert admin("POST", "/v1/events/e").json == {"event": "e", "tasks": 0, "held": False}
    refused(admin("POST", "/v1/events/e", data="{", content_type="application/json"), 400, "no JSON")
    refused(admin("POST", "/v1/events/e", data="{}", content_type="text/plain"), 415)
    refused(admin("POST", "/v1/events/e", json=["\x00"]), 422, "NUL")
    refused(admin("POST", "/v1/events/e", data="[1e999]", content_type="application/json"), 422, "payload", "too large")
    refused(admin("POST", "/v1/events/-", json=1), 422, "event")
    refused(admin("POST", "/v1/events/a%00", json=1), 422, "name", "NUL")


def test_firing_is_stopped_and_started_and_events_are_held_meanwhile(database: Database, admin: Any) -> None:
    put(admin, "stop", triggers=[{"kind": "event", "event": "e"}])
    assert admin("GET", "/v1/firing").json == {"stopped": False}
    for _ in range(2):
        assert admin("PUT", "/v1/firing", json={"stopped": True}).json == {"stopped": True, "tasks": 0}
    assert admin("GET", "/v1/firing").json == {"stopped": True}
    assert admin("POST", "/v1/events/e", json={}).json == {"event": "e", "tasks": 0, "held": True}
    id = admin("POST", "/v1/schedules/stop/trigger").json["task_id"]
    assert admin("PUT", "/v1/firing", json={"stopped": False}).json == {"stopped": False, "tasks": 1}
    assert admin("GET", "/v1/schedules/stop/runs").json["totalSize"] == 2
    refused(admin("PUT", "/v1/firing", json={"stopped": "yes"}), 422, "stopped")
    conn = database.connect()
    register(conn, types=["csv_export"])
    assert claim(conn, types=["csv_export"]) == [id]
    assert task(conn, id)["schedule"] == "stop"


@pytest.mark.parametrize(
    "call",
    [
        "GET /v1/schedules", "GET /v1/schedules/x", "PUT /v1/schedules/x", "DELETE /v1/schedules/x",
        "POST /v1/schedules/x/enable", "POST /v1/schedules/x/disable", "POST /v1/schedules/x/trigger",
        "GET /v1/schedules/x/runs", "POST /v1/events/x", "GET /v1/firing", "PUT /v1/firing",
    ],
)  # fmt: skip
def test_readers_learn_nothing_of_schedules_and_start_none(client: Any, reader: Any, call: str) -> None:
    method, path = call.split()
    refused(reader(method, path), 403, "admin")
    refused(client.open(path, method=method), 401)
