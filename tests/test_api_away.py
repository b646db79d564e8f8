"""Postgres away or too busy: 503 with Retry-After on every route that needs it, never a trace, never a hang."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest

from pgfleet import tokens
from pgfleet.settings import Settings
from pgfleet_api import connections, create_app
from tests.support.api import create, refused
from tests.support.database import Database

WITHOUT = {"/health", "/metrics", "/openapi.json", "/docs"}


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
            body = {"type": "csv_export"} if (method, rule.rule) == ("POST", "/v1/tasks") else None
            response = client.open(path, method=method, headers=headers, json=body)
            refused(response, 503, "The database is away.")
            assert response.headers["Retry-After"], path
            asked += 1
    assert asked >= 15


@pytest.mark.parametrize("method", ["DELETE", "GET"])
def test_a_row_that_stays_locked_is_503_and_not_a_fault(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, as_user: Callable[..., Any], method: str
) -> None:
    monkeypatch.setattr(connections, "STATEMENT_TIMEOUT", "200")
    call = as_user(1)
    id = create(call)
    with database.connect(autocommit=False) as gate:
        gate.execute("lock table tasks in access exclusive mode")
        response = call(method, f"/v1/tasks/{id}")
        refused(response, 503, "can't serve this now")
        assert response.headers["Retry-After"]
    assert call("GET", f"/v1/tasks/{id}").json["status"] == "fresh"
