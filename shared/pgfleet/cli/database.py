"""The connection a command works on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from pgfleet import db, migrate
from pgfleet import settings as settings_module
from pgfleet.cli.moments import length
from pgfleet.errors import DatabaseAway


def _seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    given = length(ctx, param, value)
    return None if given is None else given.total_seconds()


max_wait_option = click.option(
    "--max-wait", callback=_seconds, metavar="LENGTH", help="Wait so long at most, then fail: 90s, 12h."
)


@contextmanager
def connection(command: str) -> Iterator[db.Connection]:
    """A connection by this process's settings, to a schema that is known to be up to date; closed at the end.

    Raises SettingsError, DatabaseAway, or SchemaError, whose hint is to migrate.
    """
    settings = settings_module.from_env()
    with db.connect(settings, f"pgfleet {command}") as conn:
        migrate.require_current(conn, settings)
        yield conn


def poll(command: str, look: Callable[[db.Connection], bool], *, pause: float, max_wait: float | None) -> bool:
    """Call ``look`` every ``pause`` seconds until it answers True; False after ``max_wait`` seconds (None: never).

    An outage of the database is waited out, except at the start. Raises as :func:`connection` does.
    """
    deadline = None if max_wait is None else time.monotonic() + max_wait
    looked, away = False, False
    while True:
        try:
            with connection(command) as conn:
                while True:
                    if look(conn):
                        return True
                    looked, away = True, False
                    if not _slept(pause, deadline):
                        return False
        except DatabaseAway:
            if not looked:
                raise
            if not away:
                click.echo("The database is away; waiting for it.", err=True)
            away = True
            if not _slept(pause, deadline):
                return False


def _slept(pause: float, deadline: float | None) -> bool:
    """Sleep until the next look; False where the deadline has passed already."""
    left = pause if deadline is None else deadline - time.monotonic()
    if left <= 0:
        return False
    time.sleep(min(pause, left))
    return True
