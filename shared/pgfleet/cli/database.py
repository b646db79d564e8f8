"""The connection a command works on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pgfleet import db, migrate
from pgfleet import settings as settings_module


@contextmanager
def connection(command: str) -> Iterator[db.Connection]:
    """A connection by this process's settings, to a schema that is known to be up to date; closed at the end.

    Raises SettingsError, DatabaseAway, or SchemaError, whose hint is to migrate.
    """
    settings = settings_module.from_env()
    with db.connect(settings, f"pgfleet {command}") as conn:
        migrate.require_current(conn, settings)
        yield conn
