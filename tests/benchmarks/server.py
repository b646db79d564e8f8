"""The benchmarks' own Postgres: the embedded one with durable settings, and a fresh database for each run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg.sql import SQL, Identifier

from pgfleet import migrate
from pgfleet.settings import Settings
from tests.support.server import embedded

#: Durable; memory and WAL enough that neither eviction nor a forced checkpoint decides a row. All else is Postgres's.
OPTIONS: Mapping[str, str] = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "max_connections": "400",
}


@dataclass
class Database:
    """One database of one run."""

    url: str
    _open: list[psycopg.Connection[Any]] = field(default_factory=list, repr=False)

    def connect(self, **kw: Any) -> psycopg.Connection[Any]:
        """A connection (autocommit unless told otherwise) that is closed with the database."""
        conn = psycopg.connect(self.url, **{"autocommit": True, "application_name": "pgfleet bench", **kw})
        self._open.append(conn)
        return conn

    def value(self, query: str, *args: Any) -> Any:
        """The first column of the first row, over a connection of its own."""
        with psycopg.connect(self.url, autocommit=True, application_name="pgfleet bench") as conn:
            row = conn.execute(query, args or None).fetchone()  # type: ignore[arg-type]
        return row[0] if row else None

    def settle_down(self) -> None:
        """What every timed part begins with: statistics and a visibility map, no dirty pages of the preparation's."""
        with psycopg.connect(self.url, autocommit=True, application_name="pgfleet bench") as conn:
            conn.execute("vacuum (analyze)")
            conn.execute("checkpoint")

    def close(self) -> None:
        for conn in self._open:
            conn.close()
        self._open.clear()


class Server:
    """A running Postgres in a folder of its own, which goes with it."""

    def __init__(self, options: Mapping[str, str] = OPTIONS) -> None:
        self.options = dict(options)
        self._postgres, self._remove = embedded(None, self.options)
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._remove()

    @property
    def folder(self) -> str:
        """Where its data lies."""
        return str(self._postgres.data_dir)

    def version(self) -> str:
        with psycopg.connect(self._postgres.url()) as conn:
            row = conn.execute("select current_setting('server_version')").fetchone()
        return str(row[0]) if row else "?"

    @contextmanager
    def database(self, *, migrated: bool = True) -> Iterator[Database]:
        """A new database, dropped at the end; with pgfleet's schema unless told otherwise."""
        name = f"bench_{next(self._numbers)}"
        self._execute(SQL("create database {} template template0 strategy file_copy").format(Identifier(name)))
        database = Database(self._postgres.url(name))
        try:
            if migrated:
                migrate.migrate(Settings(database_url=database.url))
            yield database
        finally:
            database.close()
            self._execute(SQL("drop database if exists {} with (force)").format(Identifier(name)))

    def _execute(self, statement: Any) -> None:
        with psycopg.connect(self._postgres.url(), autocommit=True) as conn:
            conn.execute(statement)
