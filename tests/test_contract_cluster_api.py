"""The cluster scheduler API (``/cxs/tasks``), as its contract has it, request by request and word by word."""

from __future__ import annotations

import dataclasses
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from pgfleet import schedules, tasks
from pgfleet.settings import Settings
from pgfleet_api import create_app, item_ids
from pgfleet_api.state import KEY
from tests.support.api import refused, settle
from tests.support.cluster_api import FIELDS, ROOT, UTC_TIME, missing
from tests.support.database import Database
from tests.support.fleet import OTHER, WORKER, claim, create, register, task
from tests.support.processes import Processes
from tests.support.scheduled import Scheduled

STATUSES = {
    "waiting": "SCHEDULED", "fresh": "WAITING", "started": "RUNNING", "success": "COMPLETED", "failure": "FAILED",
    "cancelled": "CANCELLED", "crashed": "CRASHED",
}  # fmt: skip


@pytest.fixture
def conn(database: Database) -> Any:
    """A connection to a fleet with one worker, which takes jobs."""
    made = database.connect()
    register(made)
    return made


def of_status(database: Database, conn: Any, status: str, type: str = "job") -> int:
    id = create(conn, type=type, **({"run_at": "2090-01-01 00:00+00"} if status == "waiting" else {}))
    if status not in ("waiting", "fresh"):
        settle(database, id, status)
    return id


def listed(admin: Any, query: str = "") -> tuple[list[int | None], int]:
    """The ids of a page's tasks (None: in memory), and the totalSize."""
    response = admin("GET", f"{ROOT}?{query}")
    assert response.status_code == 200, response.text
    assert list(response.json) == ["list", "offset", "pageSize", "totalSize"]
    return [item_ids.task_of(item["itemId"]) for item in response.json["list"]], response.json["totalSize"]


def test_the_contracts_own_request_for_a_list(conn: Any, admin: Any) -> None:
    ids = [create(conn), create(conn)]
    claim(conn, 2)
    response = admin("GET", "/cxs/tasks?status=RUNNING&type=job&offset=0&limit=50&sortBy=lastExecutionDate")
    assert response.status_code == 200
    page = response.json
    assert list(page) == ["list", "offset", "pageSize", "totalSize"]
    assert (page["offset"], page["pageSize"], page["totalSize"]) == (0, 50, 2)
    assert [item["itemId"] for item in page["list"]] == [item_ids.of_task(id) for id in ids]
    for item in page["list"]:
        assert list(item) == FIELDS
        assert str(uuid.UUID(item["itemId"])) == item["itemId"]
        assert (item["taskType"], item["status"], item["persistent"]) == ("job", "RUNNING", True)
        assert UTC_TIME.fullmatch(item["lastExecutionDate"])
        assert item["nextScheduledExecution"] is None


def test_the_contracts_own_words_for_an_unknown_task(admin: Any) -> None:
    response = admin("GET", "/cxs/tasks/123e4567")
    assert response.status_code == 404
    assert response.json == {"error": "Task not found", "code": "404", "message": "No task exists with ID: 123e4567"}


@pytest.mark.parametrize(
    "id",
    [
        "123e4567", "123e4567-e89b-12d3-a456-426614174000", "42", "-", "a%00", "7067666c656580008000000000000001",
        "7067666c-6565-8004-8000-000000000001", "7067666c-6565-4000-8000-000000000001", "7067666c-6565-8000-c000-000000000001",
        item_ids.of_task(2**63 - 1), item_ids.of_task(-1), item_ids.of_memory(WORKER, "refresh"),
    ],
)  # fmt: skip
def test_an_id_that_is_no_tasks_is_404_on_every_route(conn: Any, admin: Any, id: str) -> None:
    create(conn)
    shown = id.replace("%00", "\x00")
    for method, tail in (
        ("GET", ""), ("DELETE", ""), ("POST", "/retry"), ("POST", "/resume"), ("PUT", "/config?maxRetries=1"),
    ):  # fmt: skip
        missing(admin(method, f"{ROOT}/{id}{tail}"), shown)


@pytest.mark.parametrize("id", [0, 1, 42, 2**62 - 1, 2**62, 2**63 - 1, -1, -(2**63)])
def test_every_bigint_has_a_uuid_of_version_8_and_back(id: int) -> None:
    made = uuid.UUID(item_ids.of_task(id))
    assert (made.version, made.variant) == (8, uuid.RFC_4122)
    assert item_ids.task_of(str(made)) == item_ids.task_of(str(made).upper()) == id


def test_each_status_has_its_word_and_its_filter(database: Database, conn: Any, admin: Any) -> None:
    ids = {word: of_status(database, conn, status) for status, word in STATUSES.items()}
    for word, id in ids.items():
        assert listed(admin, f"status={word}") == ([id], 1)
        assert admin("GET", f"{ROOT}/{item_ids.of_task(id)}").json["status"] == word
    assert listed(admin, "status=RUNNING,FAILED&status=CRASHED&sortBy=itemId")[1] == 3


def test_an_items_fields_say_what_the_row_says(conn: Any, admin: Any) -> None:
    id = tasks.create(conn, "job", {"a": 1}, created_by=1)
    claim(conn)
    conn.execute("select progress_task(%s, %s, 1, 0.5, 'half', '1 hour')", [WORKER, id])
    conn.execute("select checkpoint_task(%s, %s, 1, '[3]')", [WORKER, id])
    admin("PUT", f"{ROOT}/{item_ids.of_task(id)}/config?maxRetries=3&retryDelay=1500")
    item = admin("GET", f"{ROOT}/{item_ids.of_task(id)}").json
    assert (item["parameters"], item["currentStep"], item["checkpointData"]) == ({"a": 1}, "half", [3])
    assert (item["maxRetries"], item["retryDelay"], item["failureCount"]) == (3, 1500, 0)
    details = item["statusDetails"]
    assert (details["attempt"], details["worker"], details["progress"], details["error"]) == (1, WORKER, 0.5, None)
    assert 3500 < details["secondsLeft"] <= 3600
    began = item["lastExecutionDate"]
    conn.execute("select fail_task(%s, %s, 1, 'No.', null, false, '1 hour')", [WORKER, id])
    item = admin("GET", f"{ROOT}/{item_ids.of_task(id)}").json
    assert (item["status"], item["failureCount"], item["lastExecutionDate"]) == ("SCHEDULED", 1, began)
    assert UTC_TIME.fullmatch(item["nextScheduledExecution"])


def test_filters_combine(database: Database, conn: Any, admin: Any) -> None:
    of_status(database, conn, "failure")
    export = of_status(database, conn, "failure", "csv_export")
    of_status(database, conn, "success", "csv_export")
    assert listed(admin, "status=FAILED&type=csv_export") == ([export], 1)
    assert listed(admin, "status=CRASHED&type=csv_export") == ([], 0)
    assert listed(admin, "type=job,csv_export")[1] == 3


def test_a_page_past_the_end_still_tells_the_true_total_size(conn: Any, admin: Any) -> None:
    for _ in range(3):
        create(conn)
    for offset in (3, 1000, 9_223_372_036_854_775_807):
        page = admin("GET", f"{ROOT}?offset={offset}&limit=2").json
        assert page == {"list": [], "offset": offset, "pageSize": 2, "totalSize": 3}


@pytest.mark.parametrize(
    "query",
    [
        "sortBy=colour", "sortBy=lastExecutionDate:up", "sortBy=created_at", "status=running", "status=LATE", "limit=0",
        "limit=501", "offset=-1", "offset=9223372036854775808", "limit=many", "colour=red", "limit=1&limit=2", "type=a%00",
    ],
)  # fmt: skip
def test_wrong_parameters_are_400(admin: Any, query: str) -> None:
    refused(admin("GET", f"{ROOT}?{query}"), 400, re.split("[=&]", query)[0])


def test_lists_are_sorted_by_what_is_shown_and_what_has_none_comes_last(
    database: Database, conn: Any, admin: Any
) -> None:
    late, soon = (create(conn, run_at=f"2090-01-0{day} 00:00+00") for day in (2, 1))
    none = create(conn, type="csv_export")
    assert listed(admin, "sortBy=nextScheduledExecution")[0] == [soon, late, none]
    assert listed(admin, "sortBy=nextScheduledExecution:desc")[0] == [late, soon, none]
    settle(database, none, "failure", failure_count=4)
    assert listed(admin, "sortBy=failureCount:desc")[0][0] == none
    assert listed(admin, "sortBy=taskType")[0][0] == none
    assert listed(admin, "sortBy=lastExecutionDate:desc")[0][0] == none
    assert listed(admin, "sortBy=status")[0][0] == none  # FAILED, then SCHEDULED
    assert listed(admin)[0] == [none, soon, late]
    assert listed(admin, "sortBy=itemId")[0] == [late, soon, none]


def test_delete_is_204_also_for_one_that_runs_and_409_for_one_that_has_ended(
    database: Database, conn: Any, admin: Any
) -> None:
    ready, going = create(conn, priority=0), create(conn, priority=1)
    claim(conn)
    for id in (ready, going):
        response = admin("DELETE", f"{ROOT}/{item_ids.of_task(id)}")
        assert (response.status_code, response.data) == (204, b"")
    assert admin("GET", f"{ROOT}/{item_ids.of_task(ready)}").json["status"] == "CANCELLED"
    item = admin("GET", f"{ROOT}/{item_ids.of_task(going)}").json
    assert (item["status"], item["statusDetails"]["cancelRequested"]) == ("RUNNING", True)
    refused(admin("DELETE", f"{ROOT}/{item_ids.of_task(ready)}"), 409)


def test_retry_makes_a_failed_task_ready_and_may_reset_its_failures(database: Database, conn: Any, admin: Any) -> None:
    id = of_status(database, conn, "failure")
    conn.execute("update tasks set failure_count = 3 where id = %s", [id])
    path = f"{ROOT}/{item_ids.of_task(id)}/retry"
    item = admin("POST", path).json
    assert (item["itemId"], item["status"], item["failureCount"]) == (item_ids.of_task(id), "WAITING", 3)
    refused(admin("POST", path), 409)
    settle(database, id, "failure")
    assert admin("POST", f"{path}?resetFailureCount=true").json["failureCount"] == 0
    refused(admin("POST", f"{path}?resetFailureCount=perhaps"), 400, "resetFailureCount")


def test_put_config_takes_retries_and_milliseconds(conn: Any, admin: Any) -> None:
    id = create(conn)
    path = f"{ROOT}/{item_ids.of_task(id)}/config"
    item = admin("PUT", f"{path}?maxRetries=5&retryDelay=60000").json
    assert (item["maxRetries"], item["retryDelay"]) == (5, 60000)
    assert task(conn, id)["retry_delay"].total_seconds() == 60
    assert admin("PUT", f"{path}?retryDelay=1").json["retryDelay"] == 1
    for query in ("", "?maxRetries=-1", "?maxRetries=1001", "?retryDelay=x", "?retryDelay=31536000001", "?retries=3"):
        refused(admin("PUT", path + query), 400)


def test_resume_lets_a_crashed_task_go_on_and_no_other(database: Database, conn: Any, admin: Any) -> None:
    id = of_status(database, conn, "crashed")
    conn.execute("update tasks set checkpoint = '7' where id = %s", [id])
    path = f"{ROOT}/{item_ids.of_task(id)}/resume"
    item = admin("POST", path).json
    assert (item["status"], item["checkpointData"]) == ("WAITING", 7)
    refused(admin("POST", path), 409)


def test_what_is_done_here_is_logged_as_elsewhere(database: Database, conn: Any, admin: Any) -> None:
    path = f"{ROOT}/{item_ids.of_task(of_status(database, conn, 'crashed'))}"
    with structlog.testing.capture_logs() as logged:
        for method, tail in (("POST", "/resume"), ("PUT", "/config?maxRetries=1"), ("DELETE", ""), ("POST", "/retry")):
            admin(method, path + tail)
        claim(conn)
        admin("DELETE", path)
    told = [line for line in logged if line["log_level"] == "info"]
    assert [line["event"] for line in told] == [
        "task.resumed", "task.configured", "task.cancelled", "task.retried", "task.cancel_requested",
    ]  # fmt: skip


def test_what_a_real_worker_keeps_in_memory_is_listed(
    database: Database, admin: Any, processes: Processes, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    scheduled = Scheduled(processes, tmp_path)
    scheduled.module(
        """
        fleet.schedule("refresh").in_memory().every(hours=1).run(mark).describe("Refreshes.").group("cache").register()
        """
    )
    scheduled.worker()
    item = wait_until(lambda: admin("GET", f"{ROOT}?type=refresh").json["list"], 30, what="the worker's word")[0]
    assert (item["taskType"], item["status"], item["persistent"]) == ("refresh", "SCHEDULED", False)
    assert UTC_TIME.fullmatch(item["nextScheduledExecution"])
    (row,) = admin("GET", "/v1/schedules?persistent=false").json["list"]
    assert (row["name"], row["next_due"], row["group"]) == ("refresh", item["nextScheduledExecution"], "cache")
    assert row["triggers"][0]["every"] == 3600
    registry = admin("GET", "/api/v1/backgroundtasks").json["result"]["response"]
    assert {"taskGroup": "cache", "taskName": "refresh", "description": "Refreshes."} in registry


def test_what_workers_keep_in_memory_comes_first_and_is_not_persistent(conn: Any, admin: Any) -> None:
    refresh = {"name": "refresh", "status": "waiting", "next_due": "2090-01-01T00:00:00+00:00", "failures": 2}
    sweep = {"name": "sweep", "status": "running", "last_run_at": "2026-01-01T00:00:00+00:00"}
    schedules.declare(conn, WORKER, names=[], in_memory=[refresh, sweep])
    register(conn, OTHER)
    schedules.declare(conn, OTHER, names=[], in_memory=[{"name": "once", "last_status": "failure"}])
    ids = [create(conn) for _ in range(3)]
    page = admin("GET", ROOT).json
    once, first, second, *rest = page["list"]  # by name
    assert [item["persistent"] for item in page["list"]] == [False] * 3 + [True] * 3
    assert [item_ids.task_of(item["itemId"]) for item in rest] == ids[::-1]
    assert (once["taskType"], once["status"]) == ("once", "FAILED")
    assert (first["taskType"], first["status"], first["failureCount"]) == ("refresh", "SCHEDULED", 2)
    assert (first["nextScheduledExecution"], first["lastExecutionDate"]) == ("2090-01-01T00:00:00+00:00", None)
    assert (second["taskType"], second["status"], second["statusDetails"]["worker"]) == ("sweep", "RUNNING", WORKER)
    assert list(first) == FIELDS
    assert admin("GET", f"{ROOT}/{first['itemId']}").json == first
    assert len({item["itemId"] for item in page["list"]}) == page["totalSize"] == 6
    pages = [admin("GET", f"{ROOT}?limit=2&offset={offset}").json["list"] for offset in range(0, 8, 2)]
    assert [item for page in pages for item in page] == page["list"]
    assert listed(admin, "status=SCHEDULED") == ([None], 1)
    assert listed(admin, "type=sweep,job")[1] == 4
    for method, tail in (
        ("DELETE", ""), ("POST", "/retry"), ("POST", "/resume"), ("PUT", "/config?maxRetries=1"),
    ):  # fmt: skip
        refused(admin(method, f"{ROOT}/{first['itemId']}{tail}"), 409, "in memory")


@pytest.mark.parametrize(
    "call", ["GET ", "GET /x", "DELETE /x", "POST /x/retry", "PUT /x/config?maxRetries=1", "POST /x/resume"]
)
def test_others_than_administrators_are_403_and_nobody_is_401(
    client: Any, reader: Any, as_user: Callable[..., Any], call: str
) -> None:
    method, _, tail = call.partition(" ")
    refused(reader(method, ROOT + tail), 403)
    refused(client.open(ROOT + tail, method=method), 401)
    assert as_user(5, "ADMINISTRATOR")(method, ROOT + tail).status_code in (200, 404)


def test_pages_of_configured_origins_may_call(settings: Settings, admin_token: str) -> None:
    app = create_app(dataclasses.replace(settings, cors_origins=("https://ops.example",)))
    client = app.test_client()
    asked = {"Origin": "https://ops.example", "Access-Control-Request-Method": "PUT"}
    preflight = client.options(f"{ROOT}/x/config", headers=asked)
    assert (preflight.status_code, preflight.headers["Access-Control-Allow-Origin"]) == (204, "https://ops.example")
    assert "PUT" in preflight.headers["Access-Control-Allow-Methods"]
    headers = {"Origin": "https://ops.example", "Authorization": f"Bearer {admin_token}"}
    assert client.get(ROOT, headers=headers).headers["Access-Control-Allow-Origin"] == "https://ops.example"
    other = client.get(ROOT, headers={**headers, "Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in other.headers
    app.extensions[KEY].close()
