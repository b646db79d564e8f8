"""Postgres away or too busy: 503 with Retry-After on every route that needs it, never a trace, never a hang."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from pgfleet import tokens
from pgfleet.settings import Settings
from pgfleet_api import create_app
from pgfleet_api.state import KEY
from tests.support.api import refused
from tests.support.database import Database

WITHOUT = {"/health", "/metrics", "/openapi.json", "/docs"}
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/v1/tasks"): {"type": "csv_export"},
    ("PUT", "/v1/schedules/<name>"): {"type": "csv_export"},
    ("PUT", "/v1/firing"): {"stopped": True},
}


def test_every_route_that_needs_the_database_is_503_while_it_is_away(settings: Settings) -> None:
    app = create_app(dataclasses.replace(settings, database_url="postgresql://nobody@127.0.0.1:1/none"))
    client = app.test_client()
    headers = {"Authorization": f"Bearer {tokens.mint(settings, 999, role='admin')}"}
    asked = 0
    for rule in app.url_map.iter_rules():
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            if rule.rule in WITHOUT:
                continue
            path = re.sub(r"<\w+>", "1", rule.rule) + ("?maxRetries=1" if rule.rule.endswith("/config") else "")
            response = client.open(path, method=method, headers=headers, json=BODIES.get((method, rule.rule)))
            assert response.status_code == 503, path
            if not path.startswith("/api/v1/backgroundtasks"):  # a contract with an envelope of its own
                refused(response, 503, "The database is away.")
            assert response.headers["Retry-After"], path
            asked += 1
    assert asked >= 15


@pytest.mark.parametrize("method", ["DELETE", "GET"])
def test_a_row_that_stays_locked_is_503_and_not_a_fault(database: Database, settings: Settings, method: str) -> None:
    app = create_app(dataclasses.replace(settings, answer_timeout=1.0))
    client = app.test_client()
    headers = {"Authorization": f"Bearer {tokens.mint(settings, 1)}"}
    id = client.post("/v1/tasks", json={"type": "csv_export"}, headers=headers).get_json()["task_id"]
    with database.connect(autocommit=False) as gate:
        gate.execute("lock table tasks in access exclusive mode")
        response = client.open(f"/v1/tasks/{id}", method=method, headers=headers)
        refused(response, 503, "can't serve this now")
        assert response.headers["Retry-After"]
    assert client.get(f"/v1/tasks/{id}", headers=headers).get_json()["status"] == "fresh"
    app.extensions[KEY].close()
