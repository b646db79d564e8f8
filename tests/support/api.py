"""Words for tests of the API: what a refusal looks like, a task created by a call, a task put into a status."""

from __future__ import annotations

from typing import Any

from werkzeug.test import TestResponse

from tests.support.database import Database


def refused(response: TestResponse, status: int, *words: str) -> None:
    """The response is an error in our form, and its message says all of ``words``."""
    assert response.status_code == status, response.text
    body = response.json
    assert body is not None
    assert set(body) == {"error", "code", "message"}
    assert body["code"] == str(status)
    for word in words:
        assert word in body["message"]
    assert "Traceback" not in response.text


def create(call: Any, **fields: Any) -> int:
    response = call("POST", "/v1/tasks", json={"type": "csv_export", **fields})
    assert response.status_code == 202, response.text
    return int(response.json["task_id"])


def settle(database: Database, id: int, status: str, **columns: Any) -> None:
    """Put a task into ``status`` behind the fleet's back."""
    with database.connect() as conn:
        conn.execute("update tasks set status = %s, worker = 'w', started_at = now() where id = %s", [status, id])
        for name, value in columns.items():
            conn.execute(f"update tasks set {name} = %s where id = %s", [value, id])  # type: ignore[arg-type]
