"""A TCP proxy that can be told to misbehave as networks do: fall silent, lose a connection at one end, reset it.

What it can't show: a link whose far end no longer acknowledges. The kernel here answers keepalives while the proxy is
silent, so only what a program notices by itself shows up. The rest needs hosts of one's own: see ``netns.py``.
"""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict

Way = Literal["up", "down", "both"]  # up: from the client to the server

CHUNK = 64 * 1024
#: Bytes held for an end that doesn't read; then the other end isn't read either, as by a full send buffer.
MOST_HELD = 256 * 1024
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close by RST instead of FIN
_APPLICATION = re.compile(rb"\0application_name\0([^\0]*)\0")


class _Stream:
    """One direction of a link: what was read at ``source`` and is yet to be written to ``target``."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source, self.target = source, target
        self.held = bytearray()
        self.passed = 0
        self.paused = False
        self.ended = False  # the source has sent FIN
        self.told = False  # and the target has been told


class Link:
    """One connection through the proxy. May be used from any thread; each call has taken effect when it returns."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client, self._server = client, server
        self._up, self._down = _Stream(client, server), _Stream(server, client)
        self._lost = False
        self.application = ""  #: what libpq says of itself: its application_name
        self.open = True  #: until either end, or the proxy, has closed it

    @property
    def sent(self) -> int:
        """Bytes of the client's that have reached the server."""
        return self._up.passed

    @property
    def received(self) -> int:
        """Bytes of the server's that have reached the client."""
        return self._down.passed

    def pause(self, way: Way = "both") -> None:
        """Silence: bytes and FINs are held, and neither end is told. ``down`` alone loses answers, not commands."""
        with self._proxy._changing():
            for stream in self._streams(way):
                stream.paused = True

    def resume(self, way: Way = "both") -> None:
        """What was held flows, as after a link that was away for less than TCP's patience."""
        with self._proxy._changing():
            for stream in self._streams(way):
                stream.paused = self._lost

    def lose(self) -> None:
        """As a host that is gone: what is under way is lost, and both ends stay half-open, for ever."""
        with self._proxy._changing():
            self._lost = self._up.paused = self._down.paused = True
            self._up.held.clear()
            self._down.held.clear()

    def cut(self, end: Literal["client", "server", "both"] = "both") -> None:
        """Reset (RST). With one ``end`` named, only that one learns of it; the other stays half-open."""
        with self._proxy._changing():
            if end == "both":
                self._proxy._end(self)
                return
            self._lost = self._up.paused = self._down.paused = True
            self._proxy._close(self._client if end == "client" else self._server)

    def _streams(self, way: Way) -> list[_Stream]:
        return {"up": [self._up], "down": [self._down], "both": [self._up, self._down]}[way]


class Proxy:
    """Listens on ``host`` (127.0.0.1) and forwards to ``target``: (host, port), or the path of a Unix socket.

    A context manager; at its end every link is reset. Runs in one thread of its own.
    """

    def __init__(self, target: tuple[str, int] | str, *, host: str = "127.0.0.1") -> None:
        self._target = target
        self._listener = socket.create_server((host, 0), backlog=128)
        self._listener.setblocking(False)
        self.host, self.port = self._listener.getsockname()[:2]
        self._selector = selectors.DefaultSelector()
        self._bell, self._ringer = socket.socketpair()
        self._bell.setblocking(False)
        self._lock = threading.RLock()
        self._links: list[Link] = []
        self._silent: set[Literal["up", "down"]] = set()
        self._refusing = False
        self._closed = False
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name=f"proxy {self.port}", daemon=True)
        self._thread.start()

    @classmethod
    def before(cls, url: str) -> Proxy:
        """A proxy before the Postgres of ``url``, reached by TCP or by a Unix socket; see :meth:`url`."""
        given: dict[str, Any] = conninfo_to_dict(url)
        host, port = str(given.get("host") or "localhost"), int(given.get("port") or 5432)
        return cls(str(Path(host) / f".s.PGSQL.{port}") if host.startswith("/") else (host, port))

    def url(self, url: str) -> str:
        """``url``, by way of this proxy."""
        given: dict[str, Any] = conninfo_to_dict(url)
        user, password = quote(str(given.get("user", "")), safe=""), quote(str(given.get("password", "")), safe="")
        who = f"{user}:{password}@" if password else f"{user}@"
        return (
            f"postgresql://{who if user else ''}{self.host}:{self.port}/{quote(str(given.get('dbname', '')), safe='')}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def links(self, application: str = "") -> list[Link]:
        """The open links, oldest first; only those whose application_name contains ``application``."""
        with self._lock:
            return [link for link in self._links if application in link.application]

    def pause(self, way: Way = "both") -> None:
        """:meth:`Link.pause` for every link, those to come included."""
        with self._changing():
            self._silent |= _ways(way)
            for link in self._links:
                link.pause(way)

    def resume(self, way: Way = "both") -> None:
        """:meth:`Link.resume` for every link."""
        with self._changing():
            self._silent -= _ways(way)
            for link in self._links:
                link.resume(way)

    def lose(self) -> None:
        """:meth:`Link.lose` for every link; new ones are as :meth:`pause` and :meth:`refuse` say."""
        with self._changing():
            for link in self._links:
                link.lose()

    def cut(self) -> None:
        """:meth:`Link.cut` for every link; new ones are as :meth:`pause` and :meth:`refuse` say."""
        with self._changing():
            for link in list(self._links):
                link.cut()

    def refuse(self, refusing: bool = True) -> None:
        """Reset new connections at once, as a port that nobody listens on; ``False`` takes them again."""
        with self._lock:
            self._refusing = refusing

    def heal(self) -> None:
        """Forward everything again; links that were lost are reset, as a host that is back would."""
        with self._changing():
            self._refusing = False
            self._silent.clear()
            for link in list(self._links):
                link.cut() if link._lost else link.resume()

    def close(self) -> None:
        """Reset all links and stop listening."""
        with self._changing():
            self._closed = True
        self._thread.join()

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the thread off while the state changes, then let it see to the change."""
        with self._lock:
            yield
            with contextlib.suppress(OSError):
                self._ringer.send(b"!")

    # -- the thread

    def _run(self) -> None:
        while True:
            ready = self._selector.select()
            with self._lock:
                for key, events in ready:
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj is self._bell:
                        self._bell.recv(4096)
                    elif key.data.open:
                        self._move(key.data, key.fileobj, events)  # type: ignore[arg-type]
                if self._closed:
                    self._shut()
                    return
                for link in list(self._links):
                    self._watch(link)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        server: socket.socket | None = None
        try:
            if self._refusing:
                raise ConnectionRefusedError
            if isinstance(self._target, str):
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._target)
            else:
                server = socket.create_connection(self._target, timeout=5)
        except OSError:
            self._close(client)
            if server is not None:
                server.close()
            return
        for end in (client, server):
            end.setblocking(False)
            if end.family != socket.AF_UNIX:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = Link(self, client, server)
        link._up.paused, link._down.paused = "up" in self._silent, "down" in self._silent
        self._links.append(link)

    def _move(self, link: Link, end: socket.socket, events: int) -> None:
        try:
            for stream in (link._up, link._down):
                if stream.paused:
                    continue
                if stream.source is end and events & selectors.EVENT_READ and len(stream.held) < MOST_HELD:
                    data = end.recv(CHUNK)
                    stream.held += data
                    stream.ended = not data
                    if stream is link._up and not link.application and (found := _APPLICATION.search(data)):
                        link.application = found[1].decode(errors="replace")
                if stream.held and (stream.target is end or stream.source is end):
                    sent = _send(stream.target, stream.held)
                    stream.passed += sent
                    del stream.held[:sent]
        except OSError:  # an end was reset
            self._end(link)

    def _watch(self, link: Link) -> None:
        """Have the selector tell of what this link can use; pass on a FIN once all before it has gone."""
        for stream in (link._up, link._down):
            if stream.ended and not stream.told and not stream.held and not stream.paused:
                stream.told = True
                with contextlib.suppress(OSError):
                    stream.target.shutdown(socket.SHUT_WR)
        if link._up.told and link._down.told:
            self._end(link, reset=False)
            return
        for end, reads, writes in ((link._client, link._up, link._down), (link._server, link._down, link._up)):
            if end.fileno() < 0:
                continue
            wanted = 0
            if not reads.paused and not reads.ended and len(reads.held) < MOST_HELD:
                wanted |= selectors.EVENT_READ
            if not writes.paused and writes.held:
                wanted |= selectors.EVENT_WRITE
            known = self._selector.get_map().get(end)
            if known is None:
                if wanted:
                    self._selector.register(end, wanted, link)
            elif not wanted:
                self._selector.unregister(end)
            elif known.events != wanted:
                self._selector.modify(end, wanted, link)

    def _end(self, link: Link, *, reset: bool = True) -> None:
        link.open = False
        if link in self._links:
            self._links.remove(link)
        for end in (link._client, link._server):
            self._close(end, reset=reset)

    def _close(self, end: socket.socket, *, reset: bool = True) -> None:
        if end.fileno() < 0:
            return
        with contextlib.suppress(KeyError):
            self._selector.unregister(end)
        if reset and end.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        end.close()

    def _shut(self) -> None:
        for link in list(self._links):
            self._end(link)
        for own in (self._listener, self._bell, self._ringer):
            own.close()
        self._selector.close()


def _send(target: socket.socket, data: bytearray) -> int:
    try:
        return target.send(data)
    except BlockingIOError:
        return 0


def _ways(way: Way) -> set[Literal["up", "down"]]:
    return {"up", "down"} if way == "both" else {way}
