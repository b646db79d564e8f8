"""Schedules, as Python sees them: put, read, remove, enable, trigger, emit. Each function is one call of ``sql/``.

A schedule is work that starts by itself, by any of its triggers: an interval, a cron expression, an event, or once. Each
start makes a run: an ordinary task. ``sql/README.md`` has the rules; :mod:`pgfleet.firing` is what workers do.

Every function takes a connection (see :func:`pgfleet.db.connect`) and runs in its transaction.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from psycopg.rows import dict_row

from pgfleet import cron as crons
from pgfleet import db, housekeeping, sql
from pgfleet.creating import text_of
from pgfleet.errors import InvalidSchedule, ScheduleNotFound
from pgfleet.schedule import CatchUp as CatchUp
from pgfleet.schedule import Kind as Kind
from pgfleet.schedule import Overlap as Overlap
from pgfleet.schedule import Schedule as Schedule
from pgfleet.schedule import State as State
from pgfleet.schedule import Trigger as Trigger
from pgfleet.schedule import check as check
from pgfleet.tasks import Page

Put = Literal["created", "changed", "unchanged"]


def put(conn: db.Connection, schedule: Schedule) -> Put:
    """Make the schedule, or make the one of its name so; what it has already keeps its clock. Any number may at once.

    Raises :class:`~pgfleet.errors.UnknownType` or :class:`~pgfleet.errors.InvalidTask`, of which
    :class:`~pgfleet.errors.InvalidSchedule` is one; also for a name of the fleet's own, which its workers put.
    """
    if schedule.name.startswith(housekeeping.RESERVED):
        raise InvalidSchedule(
            f'"{schedule.name}" is one of the fleet\'s own: its workers make it as it is.',
            hint="Choose a name that does not begin with pgfleet.; or disable that one, or trigger it.",
        )
    return put_all(conn, [schedule])[schedule.name]


def put_all(conn: db.Connection, schedules: Iterable[Schedule]) -> dict[str, Put]:
    """As :func:`put`, all of them or none; answers what became of each, by name."""
    # Everybody locks in the order of names, so that any number of fleets can register the same at once.
    wanted = sorted(schedules, key=lambda schedule: schedule.name)
    for schedule in wanted:
        check(schedule)
    q = sql.queries("schedules")
    answers: dict[str, Put] = {}
    with db.ours(), db.together(conn):
        now: datetime = _one(conn, "now")
        for schedule in wanted:
            args = {field.name: getattr(schedule, field.name) for field in dataclasses.fields(Schedule)}
            args["data"] = text_of(schedule.data)
            args["triggers"] = json.dumps([_given(trigger, schedule.time_zone, now) for trigger in schedule.triggers])
            answer = db.call(conn, q["put"], **args).fetchone()
            answers[schedule.name] = answer[0] if answer else "unchanged"
    return answers


def get(conn: db.Connection, name: str) -> State:
    """The schedule of that name. Raises :class:`~pgfleet.errors.ScheduleNotFound`."""
    found = _list(conn, name=name, offset=0, limit=1)
    if not found:
        raise ScheduleNotFound(f'No schedule is called "{name}".', hint="List the schedules.")
    return found[0]


@dataclass(frozen=True)
class Found:
    """One page of schedules, by name, and how many there are in all."""

    schedules: list[State]
    offset: int
    total: int


def find(
    conn: db.Connection,
    *,
    group: str | None = None,
    type: str | None = None,
    enabled: bool | None = None,
    stale: bool | None = None,
    offset: int = 0,
    limit: int = 50,
) -> Found:
    """One page of the schedules that match all filters given, by name."""
    filters = {"group": group, "type": type, "enabled": enabled, "stale": stale}
    page = _list(conn, **filters, offset=offset, limit=limit)
    row = db.call(conn, sql.queries("schedules")["count"], **filters).fetchone()
    return Found(page, offset, row[0] if row else 0)


def any_at_all(conn: db.Connection) -> bool:
    """Is there any schedule, besides the fleet's own?"""
    return bool(_one(conn, "any", own=list(housekeeping.NAMES)))


def remove(conn: db.Connection, name: str) -> None:
    """Forget the schedule; its runs stay, and run on. Raises ScheduleNotFound."""
    db.call(conn, sql.queries("schedules")["remove"], name=name)


def enable(conn: db.Connection, name: str) -> None:
    """Let due times and events start it again, from now on. Raises ScheduleNotFound."""
    db.call(conn, sql.queries("schedules")["enable"], name=name, enabled=True)


def disable(conn: db.Connection, name: str) -> None:
    """Let due times and events pass it by, until it is enabled. Raises ScheduleNotFound."""
    db.call(conn, sql.queries("schedules")["enable"], name=name, enabled=False)


def trigger(conn: db.Connection, name: str) -> int:
    """Start a run now, without touching the schedule's clock; answers the task's id.

    Raises ScheduleNotFound, or :class:`~pgfleet.errors.RunUnfinished` while a run of it is waiting or going.
    """
    return int(_one(conn, "trigger", name=name))


def runs(conn: db.Connection, name: str, *, offset: int = 0, limit: int = 50) -> Page:
    """One page of the schedule's runs, the latest first: rows as :func:`pgfleet.tasks.get` answers them."""
    q = sql.queries("schedules")
    with db.ours(), conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(q["runs"], {"name": name, "offset": offset, "limit": limit}).fetchall()
    total = int(_one(conn, "count_runs", name=name))
    if not total:
        get(conn, name)  # raises where there is no such schedule
    return Page(rows, offset, total)


def executions(conn: db.Connection, name: str, *, limit: int = 50) -> list[dict[str, Any]]:
    """The attempts at the schedule's runs that have ended, the latest first: what each cost, and how it ended.

    ``status`` as of :func:`pgfleet.tasks.executions`, ``task`` the run; ``result`` only of those that none followed. Empty for
    a schedule that has never run, or doesn't exist.
    """
    with db.ours(), conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(sql.queries("schedules")["executions"], {"name": name, "limit": limit}).fetchall()


def emit(conn: db.Connection, event: str, payload: Any = None) -> int:
    """Start every enabled schedule with a trigger for that event, with the caller's transaction.

    ``payload`` is anything JSON can say. Answers how many tasks were made; 0 while firing is stopped: then they are made when
    it starts. Raises :class:`~pgfleet.errors.InvalidTask`.
    """
    text = None if payload is None else json.dumps(payload, ensure_ascii=False)
    return int(_one(conn, "emit", name=event, payload=text))


def stop(conn: db.Connection) -> None:
    """Let nothing start by itself until :func:`start`. It is remembered in the database; what runs, runs on."""
    db.call(conn, sql.queries("schedules")["stop"])


def start(conn: db.Connection) -> int:
    """Undo :func:`stop`. Answers how many tasks the events made that were held meanwhile."""
    return int(_one(conn, "start"))


def is_stopped(conn: db.Connection) -> bool:
    """Is all firing stopped?"""
    return bool(_one(conn, "stopped"))


def declare(
    conn: db.Connection,
    worker: str,
    *,
    names: Iterable[str] | None = None,
    in_memory: list[dict[str, Any]] | None = None,
) -> None:
    """Say which schedules the worker's code declares, and how those do that it keeps in memory; None: as it is.

    Raises :class:`~pgfleet.errors.LostWorker`.
    """
    db.call(
        conn,
        sql.queries("schedules")["declare"],
        worker=worker,
        declares=None if names is None else sorted(names),
        memory=None if in_memory is None else json.dumps(in_memory, default=datetime.isoformat),
    )


def in_memory(conn: db.Connection) -> list[dict[str, Any]]:
    """What live workers keep in memory, as they last told: ``worker``, ``node`` and ``schedule``, as it was declared."""
    with db.ours(), conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(sql.queries("schedules")["in_memory"]).fetchall()


def _given(trigger: Trigger, time_zone: str, now: datetime) -> dict[str, Any]:
    due_at = trigger.due_at
    if trigger.cron is not None and due_at is None:
        due_at = crons.parse(trigger.cron, time_zone).next_after(now)
    given = {
        "kind": trigger.kind,
        "every": trigger.every.total_seconds() if trigger.every is not None else None,
        "fixed_delay": trigger.fixed_delay,
        "cron": trigger.cron,
        "event": trigger.event,
        "at": trigger.at.isoformat() if trigger.at is not None else None,
        "after": trigger.after.total_seconds() if trigger.after is not None else None,
        "due_at": due_at.isoformat() if due_at is not None else None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _one(conn: db.Connection, query: str, **args: Any) -> Any:
    row = db.call(conn, sql.queries("schedules")[query], **args).fetchone()
    return row[0] if row else None


def _list(conn: db.Connection, *, offset: int, limit: int, **filters: Any) -> list[State]:
    args = {"name": None, "group": None, "type": None, "enabled": None, "stale": None, **filters}
    with db.ours(), conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(sql.queries("schedules")["list"], {**args, "offset": offset, "limit": limit}).fetchall()
    return [State(**{**row, "triggers": tuple(_trigger(trigger) for trigger in row["triggers"])}) for row in rows]


def _trigger(shown: dict[str, Any]) -> Trigger:
    moments = {name: datetime.fromisoformat(shown[name]) for name in ("at", "due_at", "done_at") if shown[name]}
    lengths = {name: timedelta(seconds=shown[name]) for name in ("every", "after") if shown[name] is not None}
    return Trigger(**{**shown, **moments, **lengths})
