"""A statement prepared once and sent past psycopg's cursor: for those few that a lone task waits for.

A cursor makes its query, its dumpers and its loaders anew for each call. Hot that is 60 us, but a worker that was idle for
15 ms finds none of it in the processor's caches: a claim took 0.54 ms by a cursor and 0.34 so. The same goes for the wait:
one's own takes 0.04 ms less than psycopg's, which goes on with what takes longer than :data:`SOON`. Errors are psycopg's.
Notifications that come meanwhile stay in libpq: such a connection should not LISTEN.

Somebody else may have Postgres forget what a session has prepared: psycopg does when a transaction over the same connection
fails, a pooler may. Then the statement has not run, and is prepared and sent once more.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Iterable, Sequence
from typing import Any, LiteralString, TypeVar

from psycopg import errors, generators
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGresult

from pgfleet import db

Row = TypeVar("Row")

#: Milliseconds, as long as psycopg waits before it asks whether the connection's patience is over.
SOON = 100


class Prepared:
    """One statement, its parameters written ``$1``, ``$2``, …, over one connection. For one thread at a time."""

    def __init__(self, conn: db.Connection, name: str, statement: LiteralString) -> None:
        self._conn, self._pgconn = conn, conn.pgconn
        self._name, self._statement = f"pgfleet_{name}".encode(), statement.encode()
        self._values: tuple[bytes | None, ...] = ()
        self._transformer = Transformer(conn)
        self._poll = select.poll()
        self._poll.register(self._pgconn.socket, select.POLLIN)
        self._prepare()

    def _prepare(self) -> None:
        self._pgconn.send_prepare(self._name, self._statement)
        self._result()

    def send(self, *values: bytes | None) -> None:
        """Send it with these parameters, as Postgres reads their texts. What comes of it is for :meth:`rows` to say."""
        self._values = values
        self._pgconn.send_query_prepared(self._name, values, result_format=Format.BINARY)

    def rows(self, make: Callable[[Sequence[Any]], Row]) -> list[Row]:
        """Wait for the answer to what was sent: ``make`` of each row. Raises what psycopg raises."""
        try:
            result = self._result()
        except errors.InvalidSqlStatementName:
            if self._pgconn.transaction_status != TransactionStatus.IDLE:
                raise
            self._prepare()
            self.send(*self._values)
            result = self._result()
        self._transformer.set_pgresult(result, format=Format.BINARY)
        return self._transformer.load_rows(0, result.ntuples, make)

    def _result(self) -> PGresult:
        result = self._soon()
        if result is None:
            result = self._conn.wait(generators.execute(self._pgconn))[-1]
        if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
            raise errors.error_from_result(result)
        return result

    def _soon(self) -> PGresult | None:
        """The result, if it comes soon."""
        pgconn, result = self._pgconn, None
        if pgconn.flush():
            return None
        while self._poll.poll(SOON):
            pgconn.consume_input()
            while not pgconn.is_busy():
                following = pgconn.get_result()
                if following is None:
                    return result
                result = following
        if result is not None:  # and what closes it is still to come
            self._conn.wait(generators.execute(pgconn))
        return result


def kept(conn: db.Patient, name: str, statement: LiteralString) -> Prepared:
    """The statement of this name over ``conn``, prepared at the first call. For one thread at a time, in autocommit."""
    prepared: Prepared | None = conn.statements.get(name)
    if prepared is None:
        prepared = conn.statements[name] = Prepared(conn, name, statement)
    return prepared


def text_array(items: Iterable[str]) -> bytes:
    """Texts as the literal of a Postgres array."""
    quoted = ('"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"' for item in items)
    return f"{{{','.join(quoted)}}}".encode()


def number_array(items: Iterable[int]) -> bytes:
    """Whole numbers as the literal of a Postgres array."""
    return f"{{{','.join(map(str, items))}}}".encode()
