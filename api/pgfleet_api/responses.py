"""From the database's rows to the models of the responses."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

from pgfleet.schedules import State, Trigger
from pgfleet_api.models import Execution, ExecutionForAdmin, File, Task, TaskForAdmin, Worker
from pgfleet_api.schedule_models import Schedule, ScheduleTrigger


def time(value: datetime | None) -> str | None:
    """A time of the database, as responses show it: UTC, with offset."""
    return None if value is None else value.astimezone(UTC).isoformat()


def task(row: dict[str, Any], *, for_admin: bool) -> Task:
    """The response for one row of :func:`pgfleet.tasks.get`."""
    retries, delay, timeout = (_in_force(row, name) for name in ("max_retries", "retry_delay", "timeout"))
    values = {
        **{name: row[name] for name in Task.model_fields if name in row},
        "created_at": time(row["created_at"]),
        "updated_on": time(row["updated_on"]),
        "run_at": time(row["run_at"]),
        "started_at": time(row["started_at"]),
        "max_retries": retries or 0,
        "retry_delay": 10.0 if delay is None else delay.total_seconds(),  # its type is gone: what fail_task takes
        "timeout": None if timeout is None else timeout.total_seconds(),
        "cancel_requested": row["status"] == "started" and row["cancel_requested_at"] is not None,
        "result": parsed(row["result"]),
    }
    if for_admin:
        return TaskForAdmin.model_construct(
            **values, error_detail=row["error_detail"], checkpoint=parsed(row["checkpoint"])
        )
    return Task.model_construct(**values)


def _in_force(row: dict[str, Any], name: str) -> Any:
    """The task's own value, else its type's; None where neither says one, or the type is gone."""
    return row[f"type_{name}"] if row[name] is None else row[name]


def execution(row: dict[str, Any], *, for_admin: bool) -> Execution:
    """The response for one row of :func:`pgfleet.tasks.executions`."""
    kind = ExecutionForAdmin if for_admin else Execution
    values = {name: row[name] for name in kind.model_fields}
    return kind.model_construct(**values | {name: time(row[name]) for name in ("started_at", "ended_at")})


def worker(row: dict[str, Any]) -> Worker:
    """The response for one row of :func:`pgfleet.workers.list_workers`."""
    values = {name: row[name] for name in Worker.model_fields}
    return Worker.model_construct(**values | {name: time(row[name]) for name in ("started_at", "renewed_at")})


def schedule(state: State) -> Schedule:
    """The response for a schedule that is stored."""
    values = {name: _plain(getattr(state, name)) for name in Schedule.model_fields if hasattr(state, name)}
    values["triggers"] = [_trigger(one) for one in state.triggers]
    return Schedule.model_construct(**values, persistent=True, storage="Storage", worker=None, last_error=None)


def _trigger(trigger: Trigger) -> ScheduleTrigger:
    return ScheduleTrigger.model_construct(
        **{name: _plain(getattr(trigger, name)) for name in ScheduleTrigger.model_fields}
    )


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return time(value)
    return value.total_seconds() if isinstance(value, timedelta) else value


def parsed(text: str | None) -> Any:
    """A stored result or checkpoint: what its JSON says, or the text itself where it is none."""
    if text is None:
        return None
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return text


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refuse(number)  # it would be told as Infinity


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def file(row: dict[str, Any]) -> File:
    """The response for one row of :func:`pgfleet.exports.of_owner`."""
    created_at = row["created_at"].astimezone(UTC).replace(tzinfo=None).isoformat()
    values = {**{name: row[name] for name in File.model_fields}, "created_at": created_at}
    return File.model_construct(**values)
