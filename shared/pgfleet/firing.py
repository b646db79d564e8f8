"""Firing: what any worker does with schedules that have come due. No leader, no lock that anybody waits for.

:func:`fire` is one look. In one transaction it takes what is due (others pass over it), works out from each trigger's row
the next due time and the missed ones, makes the runs and sets the clocks on. See ``sql/README.md``, Schedules.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from itertools import islice

import psycopg
from psycopg.rows import dict_row

from pgfleet import cron as crons
from pgfleet import db, sql
from pgfleet.errors import InvalidSchedule

#: A due time is missed, for a schedule that catches up none, when it is more than this late. Quartz's threshold.
MISSED_AFTER = timedelta(minutes=1)
#: Missed due times of one cron trigger are counted up to here (or its catch-up limit): some 50 µs each, under locks.
MAX_COUNTED = 1000


@dataclass(frozen=True)
class Due:
    """A trigger that has come due, as ``due_triggers`` answers it; ``at_present`` is the database's now."""

    id: int
    schedule: str
    kind: str
    every: timedelta | None
    fixed_delay: bool
    cron: str | None
    time_zone: str
    due_at: datetime
    unaimed: bool
    before: datetime | None
    catch_up: str
    catch_up_limit: int
    at_present: datetime


@dataclass(frozen=True)
class Firing:
    """What becomes of a trigger, as ``fire_trigger`` takes it."""

    id: int
    due_times: list[datetime] = field(default_factory=list)
    next_due: datetime | None = None
    skipped: int = 0
    reason: str | None = None


@dataclass(frozen=True)
class Fired:
    """What one look did: how many triggers it fired, the tasks made, and (schedule, reason) of those that can't be fired."""

    triggers: int
    tasks: list[int]
    problems: list[tuple[str, str]]


def fire(conn: db.Connection, quantity: int = 100) -> Fired:
    """Fire what is due, at most ``quantity`` triggers; account for the runs that have ended. Needs autocommit.

    Look again at once while ``triggers`` is ``quantity``; else sleep for :func:`next_due_in`, or until ``schedules_changed`` is
    notified. Where that says 0 and a look finds nothing, another worker is at it: come back in some milliseconds.
    """
    row = db.call(conn, sql.queries("schedules")["end_runs"]).fetchone()
    made: list[int] = list(row[0]) if row else []
    try:
        due, firings, tasks = _fire(conn, quantity)
    except psycopg.Error as error:
        if not _is_its_own_fault(error):
            raise
        return _fire_singly(conn, quantity, made)
    problems = [
        (it.schedule, firing.reason or "") for it, firing in zip(due, firings, strict=True) if _is_shelved(firing)
    ]
    return Fired(len(due), made + tasks, problems)


def next_due_in(conn: db.Connection) -> float | None:
    """Seconds until something is due, 0 for overdue; None while nothing is on the clock, or firing is stopped."""
    row = db.call(conn, sql.queries("schedules")["next_due_in"]).fetchone()
    return None if row is None or row[0] is None else float(row[0])


def has_ends(conn: db.Connection) -> bool:
    """Are there runs that have ended and are not accounted for? More than a look takes, or another worker is at it."""
    row = db.call(conn, sql.queries("schedules")["has_ends"]).fetchone()
    return bool(row and row[0])


def plan(due: Due) -> Firing:
    """What becomes of a due trigger, by its clock and the schedule's catch-up rule. Pure: `at_present` is its now."""
    try:
        if due.unaimed:
            return Firing(due.id, next_due=_cron(due).next_after(due.at_present))
        times, next_due, uncounted = _due_times(due)
    except InvalidSchedule as error:
        return Firing(due.id, reason=error.message)
    except (
        Exception
    ) as error:  # a fault of ours with this one: it must not keep all others back, in each worker in turn
        return Firing(due.id, reason=f"{type(error).__name__}: {error}")
    kept = [moment for moment in times if due.before is None or moment >= due.before]
    passed_by = len(times) - len(kept)
    match due.catch_up:
        case "none":
            kept = [moment for moment in kept[-1:] if due.at_present - moment <= MISSED_AFTER]
        case "once":
            kept = kept[-1:]
        case _:
            kept = kept[-due.catch_up_limit :]
    if due.fixed_delay and not kept and due.every is not None:
        next_due = due.at_present + due.every  # no run, whose end it could wait for
    skipped = len(times) - len(kept) + uncounted
    reason = None if not skipped else "missed" if skipped > passed_by else "disabled"
    return Firing(due.id, kept, next_due, skipped, reason)


def _due_times(due: Due) -> tuple[list[datetime], datetime | None, int]:
    """The due times until now, or the latest of many; the one after; and how many more there were, as far as counted."""
    most = max(MAX_COUNTED, due.catch_up_limit)
    if due.kind == "once" or due.fixed_delay:
        return [due.due_at], None, 0
    if due.every is not None:
        number = (due.at_present - due.due_at) // due.every + 1
        times = [due.due_at + n * due.every for n in range(max(0, number - most), number)]
        return times, due.due_at + number * due.every, number - len(times)
    cron = _cron(due)
    next_due = cron.next_after(due.at_present)
    times = [due.due_at]
    for moment in islice(cron.after(due.due_at), most):
        if moment > due.at_present:
            return times, next_due, 0
        times.append(moment)
    latest = cron.latest(due.due_at, due.at_present, due.catch_up_limit)
    return latest, next_due, most + 1 - len(latest)


def _cron(due: Due) -> crons.Cron:
    return crons.parse(due.cron or "", due.time_zone)


def _fire(conn: db.Connection, quantity: int) -> tuple[list[Due], list[Firing], list[int]]:
    with conn.transaction():
        due = _due(conn, quantity)
        firings = [plan(it) for it in due]
        return due, firings, _record(conn, firings)


def _due(conn: db.Connection, quantity: int) -> list[Due]:
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(sql.queries("schedules")["due"], {"quantity": quantity}).fetchall()
    return [Due(**row) for row in rows]


def _record(conn: db.Connection, firings: Sequence[Firing]) -> list[int]:
    if not firings:
        return []
    query = sql.queries("schedules")["fire"]
    text = json.dumps([asdict(firing) for firing in firings], default=datetime.isoformat)
    return [task for _, tasks in conn.execute(query, {"firings": text}) for task in tasks]


def _fire_singly(conn: db.Connection, quantity: int, made: list[int]) -> Fired:
    """Each trigger for itself: one that can't be fired is taken off the clock, and keeps none of the others back."""
    problems: list[tuple[str, str]] = []
    with conn.transaction():
        due = _due(conn, quantity)
        for it in due:
            firing = plan(it)
            try:
                with conn.transaction():
                    made += _record(conn, [firing])
            except psycopg.Error as error:
                if not _is_its_own_fault(error):
                    raise
                firing = Firing(it.id, reason=error.diag.message_primary or str(error))
                _record(conn, [firing])
            if _is_shelved(firing):
                problems.append((it.schedule, firing.reason or ""))
    return Fired(len(due), made, problems)


def _is_shelved(firing: Firing) -> bool:
    return not firing.due_times and firing.next_due is None and not firing.skipped


def _is_its_own_fault(error: psycopg.Error) -> bool:
    """Would it fail again? Not where Postgres was away, busy or in conflict (classes 08, 40, 53, 55 and 57)."""
    return not isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
