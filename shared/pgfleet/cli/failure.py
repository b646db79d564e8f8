"""How an error looks on a terminal: what is wrong, the circumstances, the next step; on stderr, no traceback."""

from __future__ import annotations

from typing import IO, Any, Self

import click
import psycopg

from pgfleet import errors
from pgfleet.errors import PgfleetError

#: The next command, where the error itself names none.
HINTS: dict[type[PgfleetError], str] = {
    errors.ScheduleNotFound: "See which exist: pgfleet schedules list.",
    errors.TaskNotFound: "See which exist: pgfleet tasks list.",
    errors.UnknownType: "See which are known: pgfleet types list.",
    errors.UnknownWorker: "See who is at work: pgfleet workers list.",
    errors.WrongState: "Look at the task: pgfleet tasks show ID.",
}


class Failure(click.ClickException):
    """Ends the command with exit code 1."""

    exit_code = 1

    def __init__(self, message: str, detail: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.detail = detail
        self.hint = hint

    @classmethod
    def of(cls, error: PgfleetError | psycopg.Error) -> Self:
        """From an error of ours, or one of Postgres's own."""
        ours = error if isinstance(error, PgfleetError) else errors.from_postgres(error)
        if ours is not None:
            return cls(ours.message, ours.detail, ours.hint or HINTS.get(type(ours)))
        assert isinstance(error, psycopg.Error)  # noqa: S101 - the other half of the union
        message = error.diag.message_primary or str(error)
        code = f" (SQLSTATE {error.sqlstate})" if error.sqlstate else ""
        return cls(f"Postgres says: {message}{code}", error.diag.message_detail, error.diag.message_hint)

    def show(self, file: IO[Any] | None = None) -> None:
        lines = [f"Error: {self.message}"]
        lines += [f"  {line}" for line in (self.detail or "").splitlines()]
        lines += [f"Hint: {self.hint}"] if self.hint else []
        click.echo("\n".join(lines), err=True, file=file)
