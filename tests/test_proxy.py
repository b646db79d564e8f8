"""The droppable proxy does to a connection what its words say."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import psycopg
import pytest

from tests.support.database import Database
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until


@pytest.fixture
def proxy(database: Database) -> Iterator[Proxy]:
    with Proxy.before(database.url) as made:
        yield made


def connect(proxy: Proxy, database: Database, application: str = "a client") -> psycopg.Connection[object]:
    return psycopg.connect(proxy.url(database.url), autocommit=True, application_name=application)


def silent(sock: socket.socket, seconds: float = 0.3) -> bool:
    """Does nothing come, no byte, no end, for that long?"""
    sock.settimeout(seconds)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    return False


@pytest.fixture
def echo() -> Iterator[tuple[Proxy, socket.socket, socket.socket]]:
    """(proxy, client's end, server's end) of one raw connection."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Proxy(listener.getsockname()[:2]) as proxy,
        socket.create_connection((proxy.host, proxy.port), timeout=40) as client,
    ):
        server, _ = listener.accept()
        server.settimeout(40)
        with server:
            yield proxy, client, server


def test_the_proxy_passes_on_what_both_sides_say(proxy: Proxy, database: Database) -> None:
    with connect(proxy, database, "one of many") as conn:
        big = "x" * 3_000_000
        assert conn.execute("select %s::text", [big]).fetchone() == (big,)
        (link,) = proxy.links("one of")
        assert link.sent > 3_000_000 < link.received
        assert proxy.links("another") == []
    wait_until(lambda: not proxy.links() and not link.open, what="the link ends with its connection")


def test_a_paused_proxy_tells_nobody_and_loses_nothing(echo: tuple[Proxy, socket.socket, socket.socket]) -> None:
    proxy, client, server = echo
    proxy.pause()
    client.sendall(b"question")
    server.sendall(b"answer")
    server.shutdown(socket.SHUT_WR)
    assert silent(client)
    assert silent(server)
    proxy.resume()
    client.settimeout(40)
    server.settimeout(40)
    assert server.recv(100) == b"question"
    assert client.recv(100) == b"answer"
    assert client.recv(100) == b""


def test_an_answer_can_be_lost_whose_command_arrived(proxy: Proxy, database: Database) -> None:
    conn = connect(proxy, database)
    (link,) = proxy.links()
    link.pause("down")
    conn.pgconn.send_query(b"create table left_behind ()")
    conn.pgconn.flush()
    watcher = database.connect()
    wait_until(lambda: watcher.execute("select to_regclass('left_behind')").fetchone() != (None,))
    assert silent(socket.socket(fileno=socket.dup(conn.fileno())))
    link.cut()
    with pytest.raises(psycopg.OperationalError):
        conn.execute("select 1")


def test_a_cut_connection_is_reset_at_both_ends(echo: tuple[Proxy, socket.socket, socket.socket]) -> None:
    proxy, client, server = echo
    proxy.cut()
    for end in (client, server):
        with pytest.raises(ConnectionResetError):
            end.recv(1)


def test_an_end_that_is_not_told_of_the_cut_stays_half_open(
    echo: tuple[Proxy, socket.socket, socket.socket],
) -> None:
    proxy, client, server = echo
    (link,) = proxy.links()
    link.cut("server")
    with pytest.raises(ConnectionResetError):
        server.recv(1)
    client.sendall(b"anybody there?")
    assert silent(client)
    proxy.resume()
    assert silent(client)
    proxy.heal()
    client.settimeout(40)
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_a_lost_connection_never_comes_back_but_new_ones_do(proxy: Proxy, database: Database) -> None:
    lost = connect(proxy, database)
    proxy.lose()
    proxy.resume()
    lost.pgconn.send_query(b"select 1")
    lost.pgconn.flush()
    assert silent(socket.socket(fileno=socket.dup(lost.fileno())))
    with connect(proxy, database) as conn:
        assert conn.execute("select 1").fetchone() == (1,)
    lost.close()


def test_who_connects_through_a_silent_proxy_waits_and_a_refusing_one_says_no(proxy: Proxy, database: Database) -> None:
    proxy.pause()
    with pytest.raises(psycopg.errors.ConnectionTimeout):
        psycopg.connect(proxy.url(database.url), connect_timeout=2)
    proxy.heal()
    proxy.refuse()
    with pytest.raises(psycopg.OperationalError):
        connect(proxy, database)
    proxy.heal()
    connect(proxy, database).close()


def test_a_proxy_outlives_the_server_behind_it() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()[:2]
    with Proxy(address) as proxy:
        listener.close()
        with (
            pytest.raises(ConnectionResetError),  # may come before the connection is there
            socket.create_connection((proxy.host, proxy.port), timeout=40) as client,
        ):
            client.recv(1)
        with (
            socket.create_server(address) as again,
            socket.create_connection((proxy.host, proxy.port), timeout=40) as client,
        ):
            server, _ = again.accept()
            server.sendall(b"back")
            assert client.recv(10) == b"back"
            server.close()
