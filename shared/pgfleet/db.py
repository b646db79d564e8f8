"""Connections to Postgres: how they are made, and how a dead one is noticed."""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from pgfleet.errors import DatabaseAway, SettingsError, from_postgres
from pgfleet.settings import Settings

Connection = psycopg.Connection[Any]
T = TypeVar("T")

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


#: Of the time that an answer may take, the part after which Postgres itself gives a statement up: one that waits for a
#: lock is then told so, and only a link that is dead comes to the end of its patience.
SERVERS_PART = 0.8

#: What a role or database may set for others and the engine can't work under: its connections are idle by nature, and a
#: stale snapshot hides what a notification has just announced.
ENGINE = {
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_isolation": "read\\ committed",
}


#: The styles that psycopg reads times and intervals in, and writes arrays in; a role or database may have set others, for
#: people or for old applications.
READABLE = {"DateStyle": "ISO", "IntervalStyle": "postgres", "array_nulls": "on"}


class Silent(psycopg.OperationalError):
    """Postgres did not answer in time, and the connection has been closed."""


class Patient(psycopg.Connection[Any]):
    """A connection that waits :attr:`patience` seconds for an answer, and no more.

    TCP's own timers notice a peer that acknowledges nothing. They don't notice a link that something between (a proxy, a
    firewall, a host whose Postgres stands still) keeps up while no answer comes: that would be waited for without end.
    """

    patience = float("inf")
    #: Was its end that Postgres didn't answer?
    silent = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: By name, what :func:`pgfleet.prepared.kept` has prepared here.
        self.statements: dict[str, Any] = {}

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        """As psycopg's, which asks the generator ten times a second whether to go on. Raises :class:`Silent`."""
        if self.patience == float("inf"):
            return super().wait(gen, *args, **kwargs)
        try:
            return super().wait(_within(gen, self.patience), *args, **kwargs)
        except Silent:
            self.silent = True
            self.close()
            raise


def _within(gen: Generator[Any, Any, T], seconds: float) -> Generator[Any, Any, T]:
    began = time.monotonic()
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() - began > seconds:
                raise Silent(f"Postgres has not answered for {seconds:g} s: the connection is dropped")
            wanted = gen.send(ready)
    except StopIteration as end:
        answer: T = end.value
        return answer


def conninfo(settings: Settings, application: str, **session: str) -> str:
    """The libpq connection string: where the settings say, with our search_path and ``session`` parameters set."""
    try:
        given = conninfo_to_dict(settings.require_database())
    except psycopg.ProgrammingError as error:
        # Its message may repeat a password: only a parameter's name is told.
        unknown = re.search(r'invalid (?:URI query parameter:|connection option) "([a-z_]{1,30})"', str(error))
        raise SettingsError(
            "PGFLEET_DATABASE_URL is malformed.",
            detail=f'libpq knows no parameter "{unknown[1]}".' if unknown else None,
            hint="Write it as postgresql://user:password@host:5432/database, or as host=… dbname=… pairs.",
        ) from None
    # Quoted: "user" and "all" are names, too.
    path = "public" if settings.schema == "public" else f'"{settings.schema}",public'
    # Our statements are short. Where Postgres misjudges one it would compile for 40 ms what runs for one: registering
    # ten workers while schedules fired took Debian's Postgres 15 longer than a statement may.
    parameters = {"search_path": path, "jit": "off", **READABLE, **SERVER_KEEPALIVE, **session}
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
    settings: Settings,
    application: str,
    *,
    autocommit: bool = True,
    engine: bool = False,
    patience: float | None = None,
    **session: str,
) -> Patient:
    """A new connection, with ``session`` parameters set.

    ``engine``: one of the worker's own, whose statements are short by design: with the parameters of :data:`ENGINE`, and
    a ``patience`` of ``settings.answer_timeout`` where none is given. Others wait for an answer as long as it takes.
    Raises :class:`DatabaseAway` where Postgres doesn't answer.
    """
    if engine:
        session = {**ENGINE, **session}
        patience = settings.answer_timeout if patience is None else patience
    if patience is not None:
        session = {"statement_timeout": f"{patience * SERVERS_PART * 1000:.0f}ms", **session}
    with ours():
        conn = Patient.connect(conninfo(settings, application, **session), autocommit=autocommit)
    if patience is not None:
        conn.patience = patience
    return conn


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
        # An application's own connection may have another kind of rows.
        return conn.cursor(row_factory=tuple_row).execute(query, args)


@contextmanager
def together(conn: Connection) -> Iterator[None]:
    """What is done within is done, or undone, as a whole: with autocommit a transaction, else a part of the caller's."""
    if not conn.autocommit and conn.info.transaction_status == TransactionStatus.IDLE:
        conn.execute("")  # begins the caller's, which a transaction() outside of any would end
    with conn.transaction():
        yield


def is_away(error: BaseException) -> bool:
    """Does ``error`` mean that Postgres can't be reached (worth waiting for), rather than a fault?"""
    if isinstance(error, DatabaseAway):
        return True
    return isinstance(error, psycopg.Error) and isinstance(from_postgres(error), DatabaseAway)
