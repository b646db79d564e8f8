"""Schedules that workers keep in memory, as responses show them.

Their workers tell of them as JSON with each heartbeat (see ``declare_schedules`` in ``sql/``): an object with a ``name`` and
any of the fields of :class:`~pgfleet_api.schedule_models.Schedule`. A worker in any language may have written it, so what
is not as it should be counts as not told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, get_args

from pgfleet import db, schedules
from pgfleet_api.schedule_models import CatchUp, Overlap, Schedule, ScheduleTrigger

KINDS = ("interval", "cron", "event", "once")


def find(conn: db.Connection, name: str | None = None) -> list[Schedule]:
    """Those of live workers, by name; or only those of that name."""
    found = [one for row in schedules.in_memory(conn) if (one := shown(row)) is not None and name in (None, one.name)]
    return sorted(found, key=lambda one: (one.name, one.worker or ""))


def shown(row: Mapping[str, Any]) -> Schedule | None:
    """The response for one row of :func:`pgfleet.schedules.in_memory`; None where it has no name."""
    told = row["schedule"]
    if not isinstance(told, dict) or not isinstance(told.get("name"), str):
        return None
    given = told.get("triggers")
    triggers = [_trigger(one) for one in given if isinstance(one, dict)] if isinstance(given, list) else []
    next_due = _time(told, "next_due") or min((one.due_at for one in triggers if one.due_at), default=None)
    overlap, catch_up = told.get("overlap"), told.get("catch_up")
    return Schedule.model_construct(
        name=told["name"],
        group=_text(told, "group") or "default",
        description=_text(told, "description") or "",
        persistent=False,
        storage="Memory",
        worker=row["worker"],
        type=_text(told, "type"),
        data=None,
        triggers=triggers,
        created_by=None,
        priority=_whole(told, "priority"),
        enabled=told.get("enabled") is not False,
        max_retries=_whole(told, "max_retries", None),
        retry_delay=_number(told, "retry_delay"),
        timeout=_number(told, "timeout"),
        node=row["node"],
        all_nodes=False,
        overlap=overlap if overlap in get_args(Overlap) else "skip",
        catch_up=catch_up if catch_up in get_args(CatchUp) else "none",
        catch_up_limit=_whole(told, "catch_up_limit") or 1,
        time_zone=_text(told, "time_zone") or "UTC",
        declared=True,
        stale=False,
        created_at=_time(told, "created_at"),
        updated_on=None,
        next_due=next_due,
        running=_whole(told, "running") or int(told.get("status") == "running"),
        owed=_whole(told, "owed"),
        last_task=None,
        last_run_at=_time(told, "last_run_at"),
        last_ended_at=_time(told, "last_ended_at"),
        last_status=_text(told, "last_status"),
        last_error=_text(told, "last_error"),
        successes=_whole(told, "successes"),
        failures=_whole(told, "failures"),
        skipped=_whole(told, "skipped"),
        last_skipped_at=_time(told, "last_skipped_at"),
        last_skip_reason=_text(told, "last_skip_reason"),
    )


def _trigger(told: Mapping[str, Any]) -> ScheduleTrigger:
    kind = told.get("kind")
    return ScheduleTrigger.model_construct(
        kind=kind if kind in KINDS else "interval",
        every=_number(told, "every"),
        fixed_delay=told.get("fixed_delay") is True,
        cron=_text(told, "cron"),
        event=_text(told, "event"),
        at=_time(told, "at"),
        after=_number(told, "after"),
        due_at=_time(told, "due_at"),
        done_at=_time(told, "done_at"),
        problem=_text(told, "problem"),
    )


def _text(told: Mapping[str, Any], name: str) -> str | None:
    value = told.get(name)
    return value if isinstance(value, str) else None


def _number(told: Mapping[str, Any], name: str) -> float | None:
    value = told.get(name)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) else None


def _whole(told: Mapping[str, Any], name: str, default: Any = 0) -> Any:
    value = told.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _time(told: Mapping[str, Any], name: str) -> str | None:
    """A time told in ISO 8601 with offset, in UTC as all others."""
    try:
        moment = datetime.fromisoformat(told.get(name))  # type: ignore[arg-type]
        return moment.astimezone(UTC).isoformat() if moment.tzinfo is not None else None
    except (TypeError, ValueError, OverflowError):
        return None
