"""Words for tests that follow tasks through real workers: has it begun, has it ended, what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psycopg

from pgfleet import tasks


def register(conn: psycopg.Connection[Any], *types: str, **settings: int) -> None:
    """Make types known before a worker does."""
    for name in types:
        conn.execute("select register_type(%s, max_retries => %s)", (name, settings.get("max_retries", 0)))


def begun(gate: Path) -> Callable[[], bool]:
    """Has a handler come to that gate?"""
    return Path(f"{gate}.begun").exists


def ended(conn: psycopg.Connection[Any], id: int) -> Callable[[], dict[str, Any] | None]:
    """The task's row once it has ended."""

    def look() -> dict[str, Any] | None:
        row = tasks.get(conn, id)
        return row if row["status"] in ("success", "failure", "crashed", "cancelled") else None

    return look


def result(row: dict[str, Any]) -> Any:
    """What its handler returned; the task has succeeded."""
    assert row["status"] == "success", row
    return json.loads(row["result"])


def statuses(conn: psycopg.Connection[Any], ids: Iterable[int]) -> list[str]:
    return [tasks.get(conn, id)["status"] for id in ids]
