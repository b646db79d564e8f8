"""Clients that send or take their bytes slowly, or never: they hold threads, but not all of them."""

from __future__ import annotations

import hashlib
import json
import socket
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.database import Database
from tests.support.fleet import put, register, value
from tests.support.processes import Process, Processes

Token = Callable[..., str]
THREADS = {"PGFLEET_API_THREADS": "4"}


def connect(api: Process) -> socket.socket:
    conn = socket.socket()
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    conn.settimeout(40)
    host, port = api.url.removeprefix("http://").split(":")
    conn.connect((host, int(port)))
    return conn


def ask(conn: socket.socket, token: str, line: str, body: bytes = b"", length: int | None = None) -> None:
    head = f"{line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"
    conn.sendall(f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body)


@contextmanager
def many(api: Process, token: str, line: str, **kw: Any) -> Iterator[None]:
    """Ten clients that have asked, and go no further."""
    with ExitStack() as open_ones:
        for _ in range(10):
            ask(open_ones.enter_context(connect(api)), token, line, **kw)
        yield


def answer(api: Process, token: str, line: str, **kw: Any) -> tuple[int, bytes]:
    with connect(api) as conn:
        ask(conn, token, line, **kw)
        head = b""
        while b"\r\n\r\n" not in head:
            head += conn.recv(4096)
        return int(head.split()[1]), head


def healthy(api: Process) -> bool:
    with urllib.request.urlopen(f"{api.url}/health", timeout=40) as answered:
        return bool(answered.status == 200)


@pytest.fixture
def large(database: Database, export_dir: Path) -> bytes:
    """What user 1's file ``large.csv`` holds: more than the sockets' buffers on both sides."""
    content = b"0123456789abcdef" * 2_000_000
    (export_dir / "large.csv").write_bytes(content)
    with database.connect() as conn:
        register(conn)
        conn.execute(
            "insert into exports (filename, owner_id, task_id, format, bytes, sha256) values (%s, 1, %s, 'csv', %s, %s)",
            ["large.csv", put(conn, "success"), len(content), hashlib.sha256(content).hexdigest()],
        )
    return content


def test_bodies_that_do_not_come_leave_threads_to_other_requests(
    processes: Processes, reader_token: Token, wait_until: Callable[..., Any]
) -> None:
    api, token = processes.api(env=THREADS), reader_token(1)
    create: dict[str, Any] = {"line": "POST /v1/tasks", "body": b'{"type": "csv_export"}'}
    with many(api, token, "POST /v1/tasks", length=60):
        wait_until(lambda: answer(api, token, **create)[0] == 503)
        assert healthy(api)
        assert answer(api, token, "GET /v1/files")[0] == 200
    wait_until(lambda: answer(api, token, **create)[0] == 202)


def test_downloads_that_nobody_takes_leave_threads_to_other_requests(
    processes: Processes, reader_token: Token, large: bytes, wait_until: Callable[..., Any]
) -> None:
    api, token = processes.api(env=THREADS), reader_token(1)
    for asked in ("GET /v1/files/large.csv", "HEAD /v1/files/large.csv"):
        with many(api, token, "GET /v1/files/large.csv"):
            wait_until(lambda asked=asked: answer(api, token, asked)[0] == 503)
            assert healthy(api)
            assert answer(api, token, "POST /v1/tasks", body=b'{"type": "csv_export"}')[0] == 202
        wait_until(lambda asked=asked: answer(api, token, asked)[0] == 200)
    request = urllib.request.Request(f"{api.url}/v1/files/large.csv", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=40) as whole:
        assert whole.read() == large


def test_slow_clients_of_both_kinds_together_leave_threads_to_other_requests(
    processes: Processes, reader_token: Token, large: bytes, wait_until: Callable[..., Any]
) -> None:
    api, token = processes.api(env=THREADS), reader_token(1)
    with many(api, token, "GET /v1/files/large.csv"):
        wait_until(lambda: answer(api, token, "GET /v1/files/large.csv")[0] == 503)
        with many(api, token, "POST /v1/tasks", length=60):
            wait_until(lambda: answer(api, token, "POST /v1/tasks", body=b'{"type": "csv_export"}')[0] == 503)
            assert healthy(api)
            assert answer(api, token, "GET /v1/files")[0] == 200


def test_a_body_that_ends_early_is_400_and_makes_nothing(
    database: Database, processes: Processes, admin_token: str
) -> None:
    api = processes.api()
    for body, length in ((b"12", 6), (b"", 6), (b'{"type": "csv_export"}', 100)):
        for line in ("POST /v1/events/library.imported", "POST /v1/tasks"):
            with connect(api) as conn:
                ask(conn, admin_token, line, body=body, length=length)
                conn.shutdown(socket.SHUT_WR)
                answered = b"".join(iter(lambda conn=conn: conn.recv(4096), b""))
            assert answered.startswith(b"HTTP/1.1 400 "), (line, body)
            problem = json.loads(answered.split(b"\r\n\r\n", 1)[1])
            assert (
                problem["message"]
                == f"The body ended after {len(body)} of the {length} bytes that Content-Length says."
            )
    with database.connect() as conn:
        assert value(conn, "select count(*) from tasks where schedule is null") == 0
