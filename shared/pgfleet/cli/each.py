"""Acting on several tasks: one that is refused doesn't stop the others, but the command has failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import click

from pgfleet import db
from pgfleet.cli.database import connection
from pgfleet.cli.failure import Failure
from pgfleet.cli.output import print_json
from pgfleet.errors import PgfleetError


class Done:
    """What became of each id: its status now, or why it was refused."""

    def __init__(self) -> None:
        self.status: dict[int, str] = {}
        self.refused: dict[int, PgfleetError] = {}

    def end(self, as_json: bool) -> None:
        """Print JSON where that is asked for, an object for each id; fail where any was refused."""
        if as_json:
            print_json(
                [{"task_id": id, "status": status} for id, status in self.status.items()]
                + [{"task_id": id, "error": error.message} for id, error in self.refused.items()]
            )
        if self.refused:
            raise Failure(f"{len(self.refused)} of {len(self.status) + len(self.refused)} tasks were refused.")


def each(
    ids: Sequence[int], verb: str, act: Callable[[db.Connection, int], str], said: Mapping[str, str], *, quiet: bool
) -> Done:
    """Call ``act`` for every id, and tell of each what ``said`` has for the status it answers, unless ``quiet``."""
    done = Done()
    with connection(f"tasks {verb}") as conn:
        for id in dict.fromkeys(ids):
            try:
                done.status[id] = act(conn, id)
            except PgfleetError as error:
                if len(ids) == 1 or conn.broken:
                    raise
                Failure.of(error).show()
                done.refused[id] = error
            else:
                if not quiet:
                    click.echo(f"Task {id} {said[done.status[id]]}.")
    return done
