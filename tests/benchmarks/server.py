"""The benchmarks' own Postgres: the embedded one with durable settings, and a fresh database for each run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
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
    "min_wal_size": "4GB",
    "max_connections": "400",
}
#: Segments of WAL made before anything is measured: what max_wal_size has room for. A server that has run for a while has them
#: to use again; a new one makes each when it is needed, filling 16 MB with zeros, and nobody commits meanwhile: 50 ms every
#: 0.6 s at 28,000 tasks/s, which was the p99 of pick-up there (48 ms; 21 without), and an eighth of a drain's rate.
SEGMENTS = 256


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

    def settle_down(self, *, indexes: bool = False) -> None:
        """What every timed part begins with: statistics and a visibility map, no dirty pages of the preparation's.

        ``indexes``: without dead entries in them either, of which VACUUM leaves those of under 2 % of a table's pages.
        """
        with psycopg.connect(self.url, autocommit=True, application_name="pgfleet bench") as conn:
            conn.execute("vacuum (analyze, index_cleanup on)" if indexes else "vacuum (analyze)")
            conn.execute("checkpoint")

    def close(self) -> None:
        for conn in self._open:
            conn.close()
        self._open.clear()


class Server:
    """A running Postgres in a folder of its own, which goes with it."""

    def __init__(self, options: Mapping[str, str] = OPTIONS, *, segments: int = SEGMENTS) -> None:
        self.options = dict(options)
        self._postgres, self._remove = embedded(None, self.options)
        self._numbers = itertools.count(1)
        self._kept: dict[object, tuple[str, Any]] = {}
        try:
            self._make_segments(segments)
        except BaseException:
            self._remove()
            raise

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
        name = self._create("template0")
        try:
            with self._used(name, migrated=migrated) as database:
                yield database
        finally:
            self._drop(name)

    @contextmanager
    def copy(
        self, key: object, make: Callable[[Database], Any], *, migrated: bool = True
    ) -> Iterator[tuple[Database, Any]]:
        """A new database as ``make`` left it when it was first called with ``key``, and what it answered.

        File by file, so that all who are compared over several rounds find the same pages, and a backlog that takes a
        peer a minute to enqueue is enqueued once.
        """
        if key not in self._kept:
            name = self._create("template0")
            try:
                with self._used(name, migrated=migrated) as database:
                    answer = make(database)
            except BaseException:
                self._drop(name)
                raise
            self._kept[key] = name, answer
        original, answer = self._kept[key]
        name = self._create(original)
        try:
            with self._used(name, migrated=False) as database:
                database.settle_down()
                yield database, answer
        finally:
            self._drop(name)

    @contextmanager
    def _used(self, name: str, *, migrated: bool) -> Iterator[Database]:
        database = Database(self._postgres.url(name))
        try:
            if migrated:
                migrate.migrate(Settings(database_url=database.url))
            yield database
        finally:
            database.close()

    def _create(self, original: str) -> str:
        name = f"bench_{next(self._numbers)}"
        make = SQL("create database {} template {} strategy file_copy")
        self._execute(make.format(Identifier(name), Identifier(original)))
        return name

    def _drop(self, name: str) -> None:
        self._execute(SQL("drop database if exists {} with (force)").format(Identifier(name)))

    def _make_segments(self, number: int) -> None:
        """Use as many segments up, and have a checkpoint rename them to those to come; a slot keeps earlier ones off."""
        with psycopg.connect(self._postgres.url(), autocommit=True) as conn:
            conn.execute("select pg_create_physical_replication_slot('bench', true)")
            for _ in range(number):
                conn.execute("select pg_logical_emit_message(false, 'bench', ''), pg_switch_wal()")
            conn.execute("select pg_drop_replication_slot('bench')")
            conn.execute("checkpoint")

    def _execute(self, statement: Any) -> None:
        with psycopg.connect(self._postgres.url(), autocommit=True) as conn:
            conn.execute(statement)
