"""The production server: granian, one process of ``api_threads`` threads. Why granian: see README.md.

granian's first process keeps watch and its child, forked, serves. The child ends with its parent however that one
dies, because an orphan would go on taking the port's connections.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.util
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Flask
from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels

from pgfleet import log
from pgfleet.errors import PgfleetError
from pgfleet.settings import Settings
from pgfleet_api.app import create_app
from pgfleet_api.state import KEY

#: Seconds that requests under way have to finish after SIGTERM.
GRACE = 10


def serve(settings: Settings, factory: Callable[[Settings], Flask] = create_app) -> None:
    """Serve ``factory(settings)`` until SIGTERM or SIGINT; returns after a graceful end.

    Port 0 is any free one; the log event ``api.listening`` has the URL. ``factory`` is a module's function: it is called
    in the process that serves. Raises :class:`~pgfleet.errors.PgfleetError` where the port is taken.
    """
    address, port = _free(settings.api_host, settings.api_port)
    server = Granian(
        "pgfleet",  # a name, unused: the loader below brings the application
        address=address,
        port=port,
        interface=Interfaces.WSGI,
        workers=1,
        blocking_threads=settings.api_threads,
        http=HTTPModes.http1,
        websockets=False,
        log_level=LogLevels.error,
        workers_kill_timeout=GRACE,
    )
    server.serve(target_loader=partial(_load, settings, factory, address, port), wrap_loader=False)


def _load(settings: Settings, factory: Callable[[Settings], Flask], address: str, port: int) -> Flask:
    """In the child: the application, its threads started, and its end arranged for."""
    log.configure(settings)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), name="pgfleet-parent", daemon=True).start()
    app = factory(settings)
    state = app.extensions[KEY]
    state.notifier.start()
    # Forked by multiprocessing, this process ends without `atexit`.
    multiprocessing.util.Finalize(None, state.close, exitpriority=10)
    threading.Thread(target=_say_when_listening, args=(address, port), name="pgfleet-listening", daemon=True).start()
    return app


def _end_with(parent: Any) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _say_when_listening(address: str, port: int) -> None:
    """granian doesn't say when its child accepts connections: try until one is taken."""
    for _ in range(1000):
        with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
            host = f"[{address}]" if ":" in address else address
            log.get().info("api.listening", url=f"http://{host}:{port}", pid=os.getpid())
            return
        time.sleep(0.01)


def _free(host: str, port: int) -> tuple[str, int]:
    """The numeric address and the port to listen on; granian itself would share a port that is taken (SO_REUSEPORT)."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            name = probe.getsockname()
    except OSError as error:
        raise PgfleetError(
            f"The API can't listen on {host}, port {port}: {error.strerror or error}.",
            hint="Choose another with --host and --port, or PGFLEET_API_HOST and PGFLEET_API_PORT; 0 is any free port.",
        ) from None
    return str(name[0]), int(name[1])
