"""Schedules as they are printed: those of the database, and those that live workers keep in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pgfleet import db, schedules
from pgfleet.schedules import State
from pgfleet.settings import Duration

#: Where a schedule is kept, or a task.
STORAGE, MEMORY = "Storage", "Memory"

#: Of those in memory, what a table shows; as columns of the others are called.
_OF_MEMORY = (
    "name", "group", "description", "type", "priority", "enabled", "next_due", "running", "last_run_at", "last_ended_at",
    "last_status", "successes", "failures", "skipped",
)  # fmt: skip
_TIMES = ("next_due", "last_run_at", "last_ended_at")


def of_storage(state: State) -> dict[str, Any]:
    """One row of the database, with ``storage`` and without what its triggers don't have."""
    row = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    triggers = [
        {name: value for name, value in vars(trigger).items() if value not in (None, False)}
        for trigger in state.triggers
    ]
    return {**row, "triggers": triggers, "storage": STORAGE, "worker": None}


def of_memory(conn: db.Connection) -> list[dict[str, Any]]:
    """Those that live workers keep in memory, by name and worker, as the workers last told."""
    rows = [_of_memory(row["worker"], row["schedule"]) for row in schedules.in_memory(conn)]
    return sorted(rows, key=lambda row: (str(row["name"]), row["worker"]))


def _of_memory(worker: str, told: Mapping[str, Any]) -> dict[str, Any]:
    unsaid: dict[str, Any] = {
        **dict.fromkeys(_OF_MEMORY),
        "type": told.get("name"),
        "enabled": True,
        "running": int(told.get("status") == "running"),
        "triggers": [],
        "stale": False,
    }
    return {**unsaid, **told, "storage": MEMORY, "worker": worker}


def for_table(row: Mapping[str, Any]) -> dict[str, Any]:
    """``row`` with its triggers in words and the times of memory as times."""
    shown = {**row, "triggers": "; ".join(in_words(trigger) for trigger in row["triggers"])}
    for name in _TIMES:
        shown[name] = _moment(row[name])
    if row["enabled"] is False:
        shown["next_due"] = None
    return shown


def in_words(trigger: Mapping[str, Any]) -> str:
    """``every 1h``, ``cron 0 2 * * *``, ``on library.imported``, ``once at …``, and why it can't be fired."""
    match trigger.get("kind"):
        case "interval":
            said = f"every {_length(trigger['every'])}"
            said += " after its end" if trigger.get("fixed_delay") else ""
        case "cron":
            said = f"cron {trigger['cron']}"
        case "event":
            said = f"on {trigger['event']}"
        case _:
            moment = _moment(trigger.get("at"))
            when = moment.isoformat(sep=" ", timespec="seconds") if isinstance(moment, datetime) else ""
            said = f"once at {when}" + (" (done)" if trigger.get("done_at") else "")
    return said + (f" (can't be fired: {trigger['problem']})" if trigger.get("problem") else "")


def _length(given: Any) -> str:
    seconds = given.total_seconds() if hasattr(given, "total_seconds") else float(given)
    shown = str(Duration(seconds))
    return shown if shown[-1:].isalpha() else f"{shown}s"


def _moment(given: Any) -> Any:
    try:
        return datetime.fromisoformat(given) if isinstance(given, str) else given
    except ValueError:
        return given
