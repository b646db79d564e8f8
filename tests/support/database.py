"""A database for each test: a clone of one template, migrated once a process."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.sql import SQL, Identifier

from pgfleet import migrate
from pgfleet.settings import Settings

SECRET = "test-secret-of-at-least-32-bytes!!"

#: Seconds. Short enough that a lost worker is noticed within a test, long enough for two busy cores.
FAST: dict[str, Any] = {"lease": 3.0, "heartbeat": 0.5, "poll": 0.25, "grace": 5.0}


@dataclass
class Database:
    """One database; the connections taken from it are closed at the end of the test."""

    url: str
    _open: list[psycopg.Connection[Any]] = field(default_factory=list, repr=False)

    def connect(self, **kw: Any) -> psycopg.Connection[Any]:
        """A new connection, autocommit unless asked otherwise, with Postgres's own search_path."""
        conn = psycopg.connect(self.url, **{"autocommit": True, **kw})
        self._open.append(conn)
        return conn

    def settings(self, **overrides: Any) -> Settings:
        """Settings for this database: JSON logs, quick lease, heartbeat and poll; ``overrides`` win."""
        base = {"database_url": self.url, "auth_secret_key": SECRET, "node": "test-node", "log_format": "json", **FAST}
        return Settings(**{**base, **overrides})

    def close(self) -> None:
        for conn in self._open:
            conn.close()
        self._open.clear()


class Databases:
    """Makes and drops databases on the run's server, all named after the run and the xdist worker."""

    def __init__(self, url: str, run: str) -> None:
        self._url = url
        self._prefix = f"pgfleet_test_{run}_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
        self._count = itertools.count(1)
        self._template: str | None = None
        self._admin = psycopg.connect(url, autocommit=True, application_name="pgfleet tests")

    def url(self, name: str) -> str:
        if "://" in self._url:
            head, _, query = self._url.partition("?")
            return head.rsplit("/", 1)[0] + f"/{name}" + (f"?{query}" if query else "")
        given: dict[str, Any] = conninfo_to_dict(self._url)
        return make_conninfo(**{**given, "dbname": name})

    def empty(self) -> Database:
        """A database with nothing in it."""
        return Database(self.url(self._create("template0")))

    def migrated(self) -> Database:
        """A database as `pgfleet migrate` leaves it."""
        if self._template is None:
            name = self._create("template0")
            migrate.migrate(Settings(database_url=self.url(name)))
            self._template = name
        return Database(self.url(self._create(self._template)))

    def drop(self, database: Database) -> None:
        database.close()
        self._drop(str(conninfo_to_dict(database.url)["dbname"]))

    def close(self) -> None:
        if self._template is not None:
            self._drop(self._template)
        self._admin.close()

    def _create(self, template: str) -> str:
        name = f"{self._prefix}_{next(self._count)}"
        # file_copy: 84 ms on 18 and 146 ms on 15, wal_log: 91 and 153, both with fsync off.
        create = SQL("create database {} template {} strategy file_copy")
        self._admin.execute(create.format(Identifier(name), Identifier(template)))
        return name

    def _drop(self, name: str) -> None:
        self._admin.execute(SQL("drop database if exists {} with (force)").format(Identifier(name)))


def environment(settings: Settings) -> dict[str, str]:
    """``settings`` as the variables of a process to start; this process's own PGFLEET_* are left out."""
    import dataclasses

    env = {name: value for name, value in os.environ.items() if not name.startswith("PGFLEET_")}
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if isinstance(value, bool):
            text = str(value).lower()
        elif isinstance(value, tuple):
            text = ",".join(value)
        elif isinstance(value, Path):
            text = str(value.absolute())
        else:
            text = str(value)
        env[f"PGFLEET_{item.name.upper()}"] = text
    return env
