"""The load of the creation benchmarks: clients that each run the same few statements again and again.

One process drives many connections by epoll and libpq's non-blocking calls, about 20 µs a statement, so that Postgres
and not the load is measured; the same driver for every way of creating.
Run as ``python -m tests.benchmarks.load DSN WAY CLIENTS``; says ``ready``, waits for a line with the seconds, answers
in JSON.
"""

from __future__ import annotations

import json
import select
import sys
import time
from collections.abc import Callable

import psycopg
from psycopg import pq

from pgfleet.settings import Settings
from pgfleet_api.notifier import Notifier

_INSERT = b"select id from insert_task('noop', '{\"n\": 1}', 1)"
_CREATE = b"select create_task('noop', '{\"n\": 1}', 1)"
_OWN_WORK = b"insert into orders (customer) values (1) returning id"

#: Each a transaction: the statement whose result is a task's id comes last but for the commit.
WAYS: dict[str, list[bytes]] = {
    "insert": [_INSERT],
    "api": [_INSERT],
    "create_task": [_CREATE],
    "foreign insert": [b"begin", _OWN_WORK, _INSERT, b"commit"],
    "foreign create_task": [b"begin", _OWN_WORK, _CREATE, b"commit"],
}


class Client:
    """One connection and where it stands in its statements."""

    def __init__(self, dsn: str, statements: list[bytes]) -> None:
        self._conn = psycopg.connect(dsn, autocommit=True)  # kept: its end closes pgconn
        self.pgconn = self._conn.pgconn
        self._names = [b"s%d" % n for n in range(len(statements))]
        for name, statement in zip(self._names, statements, strict=True):
            self.pgconn.prepare(name, statement)
        self.pgconn.nonblocking = 1
        self._at = 0
        self._id_at = len(statements) - 1 if len(statements) == 1 else len(statements) - 2

    def send(self) -> None:
        self.pgconn.send_query_prepared(self._names[self._at], None)

    def received(self, tell: Callable[[int], None] | None) -> bool:
        """Take what has come; True once the last statement is through."""
        pgconn = self.pgconn
        pgconn.consume_input()
        while not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:
                if tell is not None and self._at == self._id_at:
                    tell(self._id)
                self._at += 1
                if self._at == len(self._names):
                    self._at = 0
                    return True
                self.send()
                return False
            if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
                raise RuntimeError(pgconn.get_error_message())
            if tell is not None and self._at == self._id_at:
                self._id = int(result.get_value(0, 0) or b"0")
        return False


def load(clients: list[Client], seconds: float, tell: Callable[[int], None] | None) -> dict[str, float]:
    """Run ``clients`` for ``seconds``; answers how many transactions were made and in what time."""
    epoll = select.epoll()
    by_fd = {client.pgconn.socket: client for client in clients}
    for fd in by_fd:
        epoll.register(fd, select.EPOLLIN)
    made, working = 0, len(clients)
    began = time.perf_counter()
    until = began + seconds
    for client in clients:
        client.send()
    while working:
        for fd, _ in epoll.poll():
            client = by_fd[fd]
            if client.received(tell):
                made += 1
                if time.perf_counter() < until:
                    client.send()
                else:
                    working -= 1
    return {"n": made, "seconds": time.perf_counter() - began}


def main(dsn: str, way: str, count: int) -> None:
    clients = [Client(dsn, WAYS[way]) for _ in range(count)]
    notifier = Notifier(Settings(database_url=dsn)) if way == "api" else None
    if notifier is not None:
        notifier.start()
    print("ready", flush=True)
    seconds = float(sys.stdin.readline())
    answer = load(clients, seconds, None if notifier is None else lambda id: notifier.tell([(id, ("noop", None))]))
    if notifier is not None:
        notifier.stop()
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
