"""A handler that tells when it started: CLOCK_MONOTONIC, which all processes of a machine share, over a datagram."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pgfleet_worker import Task, handler

VARIABLE = "BENCH_STAMPS"
_FORMAT = struct.Struct("qq")
_socket: socket.socket | None = None


@handler("noop_stamp")
def noop_stamp(task: Task) -> None:
    """Nothing, and says when."""
    began = time.monotonic_ns()
    global _socket
    if _socket is None:
        _socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        _socket.connect(os.environ[VARIABLE])
    _socket.send(_FORMAT.pack(task.id, began))


class Stamps:
    """The other end."""

    def __init__(self, sock: socket.socket, path: str) -> None:
        self._sock = sock
        self.env = {VARIABLE: path}

    def next(self, id: int, timeout: float = 10.0) -> int:
        """When task ``id`` started, in nanoseconds of the monotonic clock."""
        self._sock.settimeout(timeout)
        while True:
            stamped, at = _FORMAT.unpack(self._sock.recv(_FORMAT.size))
            if stamped == id:
                return int(at)


@contextmanager
def listening() -> Iterator[Stamps]:
    """A socket that handlers whose environment has ``.env`` send to."""
    with TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        path = str(Path(folder) / "stamps")
        sock.bind(path)
        yield Stamps(sock, path)
