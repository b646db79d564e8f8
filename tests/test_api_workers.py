"""``/v1/workers``: who is at work, and what an admin may tell them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.api import refused
from tests.support.database import Database
from tests.support.fleet import OTHER, WORKER, claim, create, lapse, register, value

VERBS = {"pause": ("pause", "paused"), "resume": ("work", "live"), "drain": ("drain", "draining")}


def test_workers_are_listed_oldest_first_with_what_they_hold(database: Database, admin: Any) -> None:
    assert admin("GET", "/v1/workers").json == []
    conn = database.connect()
    for worker in (WORKER, OTHER):
        register(conn, worker)
    create(conn)
    claim(conn)
    first, second = admin("GET", "/v1/workers").json
    assert first.keys() == {
        "id", "node", "types", "concurrency", "only_targeted", "schedules", "version", "started_at", "renewed_at",
        "status", "orders", "running",
    }  # fmt: skip
    assert (first["id"], first["node"], first["types"], first["concurrency"]) == (WORKER, "node", ["job"], 10)
    assert (first["status"], first["orders"], first["running"]) == ("live", "work", 1)
    assert first["started_at"].endswith("+00:00")
    assert (second["id"], second["running"]) == (OTHER, 0)
    lapse(conn)
    assert admin("GET", "/v1/workers").json[0]["status"] == "lost"


@pytest.mark.parametrize("verb", VERBS)
def test_an_order_is_answered_with_the_worker_and_heard_by_it(database: Database, admin: Any, verb: str) -> None:
    conn = database.connect()
    register(conn)
    register(conn, OTHER)
    conn.execute("update workers set orders = 'pause' where id = %s", [WORKER])
    conn.execute("listen worker_orders")
    row = admin("POST", f"/v1/workers/{WORKER}/{verb}").json
    assert (row["id"], row["orders"], row["status"]) == (WORKER, *VERBS[verb])
    assert next(conn.notifies(timeout=40, stop_after=1)).payload == WORKER
    assert value(conn, "select orders from workers where id = %s", OTHER) == "work"


def test_a_worker_may_be_named_by_its_uuid_alone(database: Database, admin: Any) -> None:
    conn = database.connect()
    id = register(conn, "rack 1/a?b:33333333-3333-4333-8333-333333333333")
    assert admin("POST", f"/v1/workers/{id.partition(':')[2]}/drain").json["id"] == id


@pytest.mark.parametrize("id", ["nobody", "walter", WORKER + "x", ":", "%25", "'"])
def test_a_worker_that_nobody_is_is_404(database: Database, admin: Any, id: str) -> None:
    register(database.connect())
    refused(admin("POST", f"/v1/workers/{id}/pause"), 404, "No worker exists with ID")
    refused(admin("POST", "/v1/workers/a%00b/pause"), 400, "NUL")


def test_a_worker_that_was_lost_takes_no_orders(database: Database, admin: Any) -> None:
    conn = database.connect()
    register(conn)
    lapse(conn)
    conn.execute("select rescue_tasks()")
    refused(admin("POST", f"/v1/workers/{WORKER}/drain"), 404, "No live worker")


@pytest.mark.parametrize("path", ["GET /v1/workers", *(f"POST /v1/workers/{WORKER}/{verb}" for verb in VERBS)])
def test_readers_learn_nothing_of_workers(
    database: Database, client: Any, reader: Any, path: str, as_user: Callable[..., Any]
) -> None:
    conn = database.connect()
    register(conn)
    method, path = path.split()
    refused(reader(method, path), 403, "admin")
    assert WORKER not in reader(method, path).text
    refused(client.open(path, method=method), 401)
    assert value(conn, "select orders from workers") == "work"
