"""Which port the API takes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pgfleet.up.errors import UpError


@contextlib.contextmanager
def choose(host: str, port: int, *, strict: bool) -> Iterator[int]:
    """``port`` if it is free; else another one, or with ``strict`` an :class:`UpError`.

    To be left when the API listens. Until then another ``up`` of this user, started at the same time, waits here:
    production servers listen with SO_REUSEPORT, so that two of them would share the port without a word.
    """
    with _one_at_a_time():
        error = _try(host, port)
        if error is None:
            yield port
        elif error.errno in (errno.EADDRINUSE, errno.EACCES) and not strict:
            yield _free(host)
        else:
            raise UpError(
                f"The API can't listen on {host}, port {port}: {error.strerror or error}.",
                hint="Choose another one by --port, or leave it out: then a free one is taken.",
            )


def _try(host: str, port: int) -> OSError | None:
    try:
        with _socket(host) as probe:
            # Without this the connections of a server that has just ended would count as taking the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as error:
        return error
    return None


def _free(host: str) -> int:
    with _socket(host) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _socket(host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    path = Path(tempfile.gettempdir(), f"pgfleet-{os.geteuid()}.port.lock")
    with contextlib.ExitStack() as stack:
        # Where somebody else has a file of that name, go on without: a taken port is noticed all the same.
        with contextlib.suppress(OSError):
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
