"""Where a task runs, over HTTP: on one node, on all of them, with a parent that sums them up."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.api import create, refused
from tests.support.database import Database
from tests.support.fleet import OTHER, WORKER, claim, column, register, task


@pytest.fixture
def conn(database: Database) -> Any:
    """A connection to a fleet of WORKER on node "north" and OTHER on "south"."""
    made = database.connect()
    for worker, node in ((WORKER, "north"), (OTHER, "south")):
        register(made, worker, types=["csv_export"])
        made.execute("update workers set node = %s where id = %s", [node, worker])
    return made


def test_a_task_for_all_nodes_has_a_part_for_each_and_ends_with_the_last(conn: Any, admin: Any) -> None:
    response = admin(
        "POST",
        "/v1/tasks",
        json={"type": "csv_export", "all_nodes": True, "priority": 7, "timeout": 60, "max_retries": 0},
    )
    id = response.json["task_id"]
    assert (response.status_code, response.headers["Location"]) == (202, f"/v1/tasks/{id}")
    whole = admin("GET", f"/v1/tasks/{id}").json
    assert (whole["status"], whole["progress"], whole["created_by"]) == ("started", 0, 999)
    page = admin("GET", f"/v1/tasks?parent={id}&sortBy=id").json
    assert [(row["node"], row["parent"], row["status"]) for row in page["list"]] == [
        ("north", id, "fresh"), ("south", id, "fresh")
    ]  # fmt: skip
    assert {(row["priority"], row["timeout"]) for row in page["list"]} == {(7, 60.0)}
    north, south = (row["id"] for row in page["list"])
    assert claim(conn, 5, types=["csv_export"]) == [north]
    conn.execute("select finish_tasks(%s, %s, '{1}', '{null}')", [WORKER, [north]])
    assert admin("GET", f"/v1/tasks/{id}").json["progress"] == 0.5
    assert claim(conn, 5, worker=OTHER, types=["csv_export"]) == [south]
    conn.execute("select fail_task(%s, %s, 1, 'broke')", [OTHER, south])
    whole = admin("GET", f"/v1/tasks/{id}").json
    assert whole["status"] == "failure"
    assert whole["result"] == {
        "parts": {
            "north": {"task_id": north, "status": "success"},
            "south": {"task_id": south, "status": "failure"},
        }
    }


def test_cancelling_a_task_for_all_nodes_cancels_its_parts(conn: Any, admin: Any) -> None:
    id = admin("POST", "/v1/tasks", json={"type": "csv_export", "all_nodes": True}).json["task_id"]
    (north,) = claim(conn, 5, types=["csv_export"])
    assert admin("DELETE", f"/v1/tasks/{id}").status_code == 202
    parts = {row["node"]: row for row in admin("GET", f"/v1/tasks?parent={id}").json["list"]}
    assert (parts["north"]["status"], parts["north"]["cancel_requested"]) == ("started", True)
    assert parts["south"]["status"] == "cancelled"
    conn.execute("select end_cancelled(%s, %s, 1)", [WORKER, north])
    assert admin("GET", f"/v1/tasks/{id}").json["status"] == "cancelled"


def test_a_task_for_all_nodes_that_none_has_begun_is_cancelled_at_once(conn: Any, admin: Any) -> None:
    id = admin("POST", "/v1/tasks", json={"type": "csv_export", "all_nodes": True}).json["task_id"]
    assert admin("DELETE", f"/v1/tasks/{id}").status_code == 204
    assert set(column(conn, "select status from tasks")) == {"cancelled"}


def test_only_an_admin_says_where_a_task_runs(conn: Any, reader: Any) -> None:
    for where in ({"all_nodes": True}, {"node": "north"}):
        refused(reader("POST", "/v1/tasks", json={"type": "csv_export", **where}), 403, "admin", "all_nodes")
    assert column(conn, "select id from tasks") == []
    assert create(reader, all_nodes=False)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"node": "north"}, ["all_nodes", "node"]),
        ({"unique_key": "k", "delay": 5}, ["all_nodes", "unique_key", "delay"]),
        ({"run_at": "2999-01-01T00:00:00Z"}, ["all_nodes", "run_at"]),
        ({"type": "nonesuch"}, ["nonesuch", "csv_export"]),
        ({"type": "idle"}, ["No live worker", "idle"]),
        ({"data": {"owner_id": "x"}}, ["owner_id"]),
    ],
)
def test_what_can_not_be_done_on_all_nodes_is_422(conn: Any, admin: Any, extra: Any, words: list[str]) -> None:
    conn.execute("insert into task_types (name) values ('idle')")
    refused(admin("POST", "/v1/tasks", json={"type": "csv_export", "all_nodes": True, **extra}), 422, *words)
    assert column(conn, "select id from tasks") == []


def test_a_task_for_one_node_is_no_other_nodes(conn: Any, admin: Any) -> None:
    id = create(admin, node="south")
    assert claim(conn, types=["csv_export"]) == []
    assert claim(conn, worker=OTHER, types=["csv_export"]) == [id]
    assert task(conn, id)["node"] == "south"
