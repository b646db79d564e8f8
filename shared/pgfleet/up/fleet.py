"""Everything that ``pgfleet up`` starts, in order, and its end."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import FrameType

from pgfleet import db, demo, migrate, tokens
from pgfleet.embedded import EmbeddedPostgres
from pgfleet.embedded.orphan import is_alive
from pgfleet.settings import Settings
from pgfleet.up import port as ports
from pgfleet.up.child import Child, tail
from pgfleet.up.client import Client, Download
from pgfleet.up.errors import UpError
from pgfleet.up.folder import Folder

#: The demo library's readers are 1 and 2.
READER, ADMIN = 1, 3
LIFETIME = timedelta(days=30)

#: Seconds the API may take to answer for the first time.
START_TIMEOUT = 60.0
#: Seconds from SIGTERM to SIGKILL; for a worker on top of the grace it gives its tasks.
GRACE = 10.0
#: Seconds between two looks at the processes while serving.
WATCH = 0.25

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What the command line says. No port: the settings' one if it is free, else any."""

    dir: Path
    workers: int
    port: int | None
    #: The database to use instead of an embedded one.
    database_url: str | None


class Fleet:
    """The running fleet; made by :func:`start`."""

    def __init__(self, settings: Settings, options: Options, folder: Folder, say: Say) -> None:
        self.settings = settings
        self.api_url = ""
        self.reader_token = tokens.mint(settings, READER, lifetime=LIFETIME)
        self.admin_token = tokens.mint(settings, ADMIN, role="admin", lifetime=LIFETIME)
        self._options = options
        self._folder = folder
        self._say = say
        self._children: list[Child] = []
        self._postgres: EmbeddedPostgres | None = None
        self._client: Client | None = None

    def export(self) -> Download:
        """One export of the reader's books, through the API. Raises :class:`UpError`."""
        assert self._client is not None  # noqa: S101
        try:
            return self._client.export(self.check)
        except (OSError, http.client.HTTPException) as error:
            self._await_an_end()
            raise UpError(f"The API stopped answering: {error}.", hint=f"Its log: {self._children[0].log}") from error

    def serve(self) -> None:
        """Watch over the processes until a KeyboardInterrupt. Raises :class:`UpError` when one of them ends."""
        while True:
            self.check()
            time.sleep(WATCH)

    def check(self) -> None:
        """Raise :class:`UpError` where a process of the fleet has ended."""
        for child in self._children:
            child.check()
        if self._postgres is not None and not is_alive(self._postgres.pid):
            raise UpError("The embedded Postgres ended.", detail=tail(self._postgres.log_path))

    def bring_up(self) -> None:
        """Postgres, schema, API, workers, library: returns when the API answers."""
        self._start_postgres()
        self._migrate()
        with ports.choose(self.settings.api_host, self._port(), strict=self._strict_port()) as port:
            self._start_api(port)
            self._start_workers()
            self._install_library()  # while the others are still importing
            self._await_api(port)
        up = {
            "api_url": self.api_url,
            "database_url": self.settings.database_url,
            "export_dir": str(self.settings.export_dir),
            "tokens": {"reader": self.reader_token, "admin": self.admin_token},
            "auth_secret_key": self.settings.auth_secret_key,
            "pid": os.getpid(),
        }
        self._folder.publish(up)

    def tear_down(self) -> None:
        """Stop all: the processes side by side, then Postgres. A signal meanwhile shortens their grace."""
        self._say("Stopping ...")
        hurry = threading.Event()
        with _signals(lambda *_: hurry.set()):
            for child in self._children:
                child.stop()
            waiters = [threading.Thread(target=child.wait) for child in self._children]
            for waiter in waiters:
                waiter.start()
            while any(waiter.is_alive() for waiter in waiters):
                if hurry.wait(0.02):
                    for child in self._children:
                        child.hurry()
                    for waiter in waiters:
                        waiter.join()
            if self._client is not None:
                self._client.close()
            if self._postgres is not None:
                self._postgres.stop()

    def _start_postgres(self) -> None:
        if self._options.database_url is None:
            data = self._folder.path / "postgres"
            self._say(f"Starting Postgres in {data} ..." if data.exists() else f"Making a Postgres in {data} ...")
            self._postgres = EmbeddedPostgres(data)
            self._postgres.start()
            self.settings = replace(self.settings, database_url=self._postgres.url())

    def _migrate(self) -> None:
        plan = migrate.migrate(self.settings)
        self._say(f"Schema {self.settings.schema} {'brought' if plan else 'is'} up to date.")

    def _install_library(self) -> None:
        with db.connect(self.settings, "pgfleet up") as conn:
            # A given database may be BookLogr's: where its tables exist they are its own, empty ones included.
            if self._postgres is not None or not _has_library(conn):
                self._say(f"Demo library: {demo.install(conn)} books.")
            else:
                self._say("This database holds BookLogr's tables: they are used as they are.")

    def _start_api(self, port: int) -> None:
        self.settings = replace(self.settings, api_port=port)
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.settings.api_host, self.settings.api_host)  # noqa: S104
        self.api_url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self._say(f"Starting the API at {self.api_url} ...")
        self._client = Client(host, port, self.reader_token)
        self._start("api", ["api"], GRACE)

    def _start_workers(self) -> None:
        names = [f"{self.settings.nickname or 'worker'}-{n}" for n in range(1, self._options.workers + 1)]
        self._say(f"Starting {len(names)} {'worker' if len(names) == 1 else 'workers'} ...")
        for n, name in enumerate(names, 1):
            self._start(f"worker-{n}", ["worker", "--nickname", name], GRACE + self.settings.grace)

    def _start(self, name: str, arguments: list[str], grace: float) -> None:
        logs, lock = self._folder.logs, self._folder.lock
        self._children.append(Child(name, arguments, env=self._environment(), logs=logs, grace=grace, lock=lock))

    def _environment(self) -> dict[str, str]:
        """Ours, settings included, with what the children can't know by themselves."""
        ours = {
            "PGFLEET_DATABASE_URL": self.settings.database_url,
            "PGFLEET_EXPORT_DIR": str(self.settings.export_dir),
            "PGFLEET_AUTH_SECRET_KEY": self.settings.auth_secret_key,
            "PGFLEET_API_PORT": str(self.settings.api_port),
            "PGFLEET_DIR": str(self._folder.path),
        }
        return {**os.environ, **ours}

    def _await_api(self, port: int) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        assert self._client is not None  # noqa: S101
        while not self._client.is_healthy():
            self.check()
            if time.monotonic() > deadline:
                raise UpError(
                    f"The API does not answer on port {port} after {START_TIMEOUT:g} seconds.",
                    detail=self._children[0].tail(),
                )
            time.sleep(0.01)
        self.check()

    def _await_an_end(self) -> None:
        """Give a process that just vanished from the network the moment until its exit code is known."""
        for _ in range(20):
            self.check()
            time.sleep(0.05)

    def _port(self) -> int:
        return self.settings.api_port if self._options.port is None else self._options.port

    def _strict_port(self) -> bool:
        return self._options.port is not None or bool(os.environ.get("PGFLEET_API_PORT"))


@contextlib.contextmanager
def start(settings: Settings, options: Options, say: Say) -> Iterator[Fleet]:
    """The fleet, running, for the block; at its end, however it comes, everything is stopped.

    SIGTERM and SIGHUP raise KeyboardInterrupt, as SIGINT does. Raises :class:`UpError` and other PgfleetErrors.
    """
    with _signals(signal.default_int_handler), Folder.hold(options.dir) as folder:
        settings = replace(
            settings,
            database_url=options.database_url or "",
            dir=folder.path,
            export_dir=settings.export_dir if os.environ.get("PGFLEET_EXPORT_DIR") else folder.exports,
            auth_secret_key=settings.auth_secret_key or folder.secret(),
        )
        fleet = Fleet(replace(settings, export_dir=settings.export_dir.absolute()), options, folder, say)
        try:
            fleet.bring_up()
            yield fleet
        finally:
            fleet.tear_down()


def _has_library(conn: db.Connection) -> bool:
    row = conn.execute("select to_regclass('books') is not null or to_regclass('notes') is not null").fetchone()
    return bool(row and row[0])


@contextlib.contextmanager
def _signals(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    # SIGINT too: a shell starts background processes with it ignored.
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
