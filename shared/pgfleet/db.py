"""Connections to Postgres: how they are made, and how a dead one is noticed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgfleet.errors import DatabaseAway, SettingsError, from_postgres
from pgfleet.settings import Settings

Connection = psycopg.Connection[Any]

#: A peer that silently vanished is noticed in under 30 s: 10 s idle, then three probes 5 s apart; unacknowledged
#: data counts as lost after 25 s. Unix sockets ignore these.
KEEPALIVE = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}


#: The same at the server's end, whose own default is two hours: sessions of a server that is gone must not pile up
#: until Postgres takes no more, nor keep their locks.
SERVER_KEEPALIVE = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "25000",
}


#: What a role or database may set for others and the engine can't work under: its statements are short by design, its
#: connections idle by nature, and a stale snapshot hides what a notification has just announced.
ENGINE = {
    "statement_timeout": "0",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_isolation": "read\\ committed",
}


def conninfo(settings: Settings, application: str, **session: str) -> str:
    """The libpq connection string: where the settings say, with our search_path and ``session`` parameters set."""
    try:
        given = conninfo_to_dict(settings.require_database())
    except psycopg.ProgrammingError:  # its message may repeat a password
        raise SettingsError(
            "PGFLEET_DATABASE_URL is malformed.",
            hint="Write it as postgresql://user:password@host:5432/database, or as host=… dbname=… pairs.",
        ) from None
    path = settings.schema if settings.schema == "public" else f"{settings.schema},public"
    parameters = {"search_path": path, **SERVER_KEEPALIVE, **session}
    options = [str(given.pop("options", "")), *(f"-c{name}={value}" for name, value in parameters.items())]
    merged: dict[str, Any] = {
        **KEEPALIVE,
        "connect_timeout": max(2, round(settings.database_timeout)),
        "application_name": application,
        "client_encoding": "UTF8",
        **given,
    }
    return make_conninfo(**merged, options=" ".join(filter(None, options)))


def connect(
    settings: Settings, application: str, *, autocommit: bool = True, engine: bool = False, **session: str
) -> Connection:
    """A new connection, with ``session`` parameters set; those of :data:`ENGINE` too for the worker's own.

    Raises :class:`DatabaseAway` where Postgres doesn't answer.
    """
    parameters = {**ENGINE, **session} if engine else session
    with ours():
        return psycopg.connect(conninfo(settings, application, **parameters), autocommit=autocommit)


@contextmanager
def ours() -> Iterator[None]:
    """Turn what Postgres raises into :mod:`pgfleet.errors` where it is one of ours; let the rest through."""
    try:
        yield
    except psycopg.Error as error:
        known = from_postgres(error)
        if known is None:
            raise
        raise known from error


def call(conn: Connection, query: LiteralString, **args: Any) -> psycopg.Cursor[Any]:
    """Run one named query with our errors; the statement is prepared once a connection has seen it often."""
    with ours():
        return conn.execute(query, args)


def is_away(error: BaseException) -> bool:
    """Does ``error`` mean that Postgres can't be reached (worth waiting for), rather than a fault?"""
    if isinstance(error, DatabaseAway):
        return True
    return isinstance(error, psycopg.Error) and isinstance(from_postgres(error), DatabaseAway)
