"""What can go wrong, in one family: each error says what was wrong, what was expected and what to do next.

The transitions in ``sql/functions`` raise SQLSTATEs of class ``PF``; :func:`from_postgres` turns them into the
classes below, so that API, worker and CLI meet the same words. The codes are documented in ``sql/README.md``.
"""

from __future__ import annotations

import psycopg


class PgfleetError(Exception):
    """An error a person can act on: ``message`` is the fact, ``detail`` the circumstances, ``hint`` the next step."""

    sqlstate: str | None = None
    # Of one whose __init__ is a handler's author's own, and leaves ours out.
    message = ""
    detail: str | None = None
    hint: str | None = None

    def __init__(self, message: str, *, detail: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = str(message)  # a handler may have raised it with anything
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        return "\n".join([self.message, *(part for part in (self.detail, self.hint) if part)])


class SettingsError(PgfleetError):
    """A ``PGFLEET_*`` variable is unknown, malformed or missing."""


class SchemaError(PgfleetError):
    """The schema in the database is not the one this version needs; ``pgfleet migrate`` says more."""


class DatabaseAway(PgfleetError):
    """Postgres could not be reached, or went away during the call; nothing is known to have been changed."""


class UnknownType(PgfleetError):
    """No task type of that name is registered."""

    sqlstate = "PF001"


class TaskNotFound(PgfleetError):
    """No task has that id."""

    sqlstate = "PF002"


class WrongState(PgfleetError):
    """The task's status does not allow the transition asked for."""

    sqlstate = "PF003"


class LostTask(PgfleetError):
    """The (task, worker, attempt) named no longer holds the row: it was rescued, cancelled or settled elsewhere."""

    sqlstate = "PF004"


class LostWorker(PgfleetError):
    """The worker is not registered, or its lease has lapsed: it must drop its work and register anew."""

    sqlstate = "PF005"


class InvalidTask(PgfleetError):
    """An argument is outside its range: of ``create_task``, of ``put_schedule``."""

    sqlstate = "PF006"


class InvalidSchedule(InvalidTask):
    """A schedule, a cron expression or another trigger can't be as it was given."""


class UnknownWorker(PgfleetError):
    """No live worker has that id."""

    sqlstate = "PF007"


class RunUnfinished(PgfleetError):
    """The schedule can't be triggered: a run of it is waiting or going."""

    sqlstate = "PF008"


class ScheduleNotFound(PgfleetError):
    """No schedule has that name."""

    sqlstate = "PF009"


BY_SQLSTATE: dict[str, type[PgfleetError]] = {
    cls.sqlstate: cls
    for cls in (
        UnknownType,
        TaskNotFound,
        WrongState,
        LostTask,
        LostWorker,
        InvalidTask,
        UnknownWorker,
        RunUnfinished,
        ScheduleNotFound,
    )
    if cls.sqlstate
}


def from_postgres(error: psycopg.Error) -> PgfleetError | None:
    """The error of ours that ``error`` stands for, or None where it is not one of ours (a fault, to be raised on)."""
    known = BY_SQLSTATE.get(error.sqlstate or "")
    if known is not None:
        diag = error.diag
        return known(diag.message_primary or str(error), detail=diag.message_detail, hint=diag.message_hint)
    if isinstance(error, psycopg.OperationalError) and (
        error.sqlstate is None or error.sqlstate[:2] == "08" or error.sqlstate[:4] in ("57P0", "5330")
    ):
        return DatabaseAway(
            "The database is away.",
            detail=str(error).strip() or None,
            hint="Check that Postgres runs and that PGFLEET_DATABASE_URL names it.",
        )
    return None
