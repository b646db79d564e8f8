"""The embedded Postgres: its cluster is made once, its server lives as long as its owner."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self
from urllib.parse import quote

from pgfleet import guard
from pgfleet.embedded.account import Account, clean_env, place_binaries, place_data, place_socket, unplace_data
from pgfleet.embedded.binaries import find_binaries, major_version
from pgfleet.embedded.errors import EmbeddedPostgresError
from pgfleet.embedded.orphan import is_alive, recorded_postmaster, stop_orphan

SUPERUSER = "postgres"
POLL = 0.005
START_TIMEOUT = 60.0
#: Seconds a fast shutdown may take before an immediate one, which leaves recovery to the next start.
FAST_TIMEOUT = 20.0
#: Fast, then immediate, which is crash-safe.
SHUTDOWN = ((signal.SIGINT, FAST_TIMEOUT), (signal.SIGQUIT, 10.0))
LOG_MAX = 10_000_000

#: Durable, modest in memory. Command-line settings, so that a later version's defaults reach old clusters too.
DEFAULTS: Mapping[str, str] = MappingProxyType(
    {
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "max_connections": "200",
        "shared_buffers": "128MB",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "logging_collector": "off",
        "listen_addresses": "",
        "unix_socket_permissions": "0700",
        "port": "5432",
    }
)


class EmbeddedPostgres:
    """A Postgres server in ``data_dir`` that stops with this process; also a context manager.

    ``bin_dir`` demands particular binaries (default: those that made the cluster, else :func:`find_binaries`).
    ``tcp_port`` opens 127.0.0.1 as well, by a password made anew at every start: see :meth:`tcp_url`.
    ``options`` are settings of Postgres that win over the defaults here. Beside ``data_dir`` stand its ``.log`` and
    its ``.lock``. Not to be used from several threads at once.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        bin_dir: Path | None = None,
        tcp_port: int | None = None,
        options: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.data_dir = Path(data_dir).absolute()
        self.log_path = self.data_dir.with_name(self.data_dir.name + ".log")
        self._bin_dir = bin_dir
        tcp = {} if tcp_port is None else {"port": str(tcp_port), "listen_addresses": "127.0.0.1"}
        self._options = {**DEFAULTS, **tcp, **options}
        self._password = secrets.token_urlsafe(24) if tcp_port is not None else None
        self._guard: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None
        self._socket_dir = self.data_dir
        self._pid = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The postmaster's process id. Raises :class:`EmbeddedPostgresError` while it does not run."""
        if self._guard is None:
            raise EmbeddedPostgresError("The embedded Postgres is not running.", hint="Call start() first.")
        return self._pid

    def url(self, dbname: str = "postgres") -> str:
        """A libpq URL over the Unix socket. Only root and Postgres's own account can open it."""
        _ = self.pid
        host = quote(os.fsencode(self._socket_dir), safe="")
        return f"postgresql://{SUPERUSER}@{host}:{self._options['port']}/{quote(dbname, safe='')}"

    def tcp_url(self, dbname: str = "postgres") -> str:
        """A libpq URL over TCP, password included; valid until :meth:`stop`."""
        _ = self.pid
        if self._password is None:
            raise EmbeddedPostgresError("The embedded Postgres has no TCP port.", hint="Pass tcp_port.")
        return f"postgresql://{SUPERUSER}:{self._password}@127.0.0.1:{self._options['port']}/{quote(dbname, safe='')}"

    def start(self) -> None:
        """Start the server, making the cluster first where there is none; returns when it accepts connections.

        Raises :class:`EmbeddedPostgresError` when another owner runs it, or with the end of the server's log.
        """
        if self._guard is not None:
            raise EmbeddedPostgresError("This embedded Postgres is running already.")
        try:
            account = Account.for_data(self.data_dir)
            real = place_data(self.data_dir, account)
            self._lock = _lock(real, account)
            stop_orphan(real, FAST_TIMEOUT)
            bin_dir = place_binaries(self._bin_dir or _binaries_for(real), account)
            _ensure_cluster(real, bin_dir, account)
            self._socket_dir = place_socket(real, int(self._options["port"]), account)
            # What is left of a killed server: no process stands behind it, as stop_orphan() has seen, and nobody
            # else may start one while the lock is ours. A recycled pid in it would make Postgres refuse to start.
            for stale in (real / "postmaster.pid", self._socket_dir / f".s.PGSQL.{self._options['port']}.lock"):
                stale.unlink(missing_ok=True)
            self._launch(real, bin_dir, account)
            self._set_password()
        except BaseException as error:
            self.stop()
            if isinstance(error, PermissionError):
                raise EmbeddedPostgresError(
                    f"No permission for {error.filename}.",
                    hint="Run as the user who made that folder, or choose another one by PGFLEET_DIR (or --dir).",
                ) from error
            raise

    def stop(self) -> None:
        """Stop the server in order (fast shutdown) and wait for it; does nothing where it does not run."""
        running, self._guard = self._guard, None
        if running is not None and running.stdin is not None:
            running.stdin.close()
            running.wait()
            # Had the guard been killed, its server might still be there.
            real = self.data_dir.resolve()
            stop_orphan(real, FAST_TIMEOUT)
            if self._socket_dir != real:
                with contextlib.suppress(OSError):
                    self._socket_dir.rmdir()
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def remove(self) -> None:
        """Stop the server and delete its data, log and lock for good."""
        self.stop()
        real = self.data_dir.resolve()
        shutil.rmtree(real, ignore_errors=True)
        for path in (self.log_path, real.with_name(real.name + ".lock")):
            path.unlink(missing_ok=True)
        unplace_data(self.data_dir, real)

    def _launch(self, real: Path, bin_dir: Path, account: Account) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not self._try_launch(real, bin_dir, account, deadline):
            # Backends of a killed postmaster leave within moments; Postgres rightly refuses to start before that.
            time.sleep(0.1)

    def _try_launch(self, real: Path, bin_dir: Path, account: Account, deadline: float) -> bool:
        quoted = '"' + str(self._socket_dir).replace('"', '""') + '"'
        settings = {"unix_socket_directories": quoted} | self._options
        argv = [str(bin_dir / "postgres"), "-D", str(real)]
        argv += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        log = _open_log(self.log_path, account)
        log_start = os.fstat(log).st_size
        try:
            self._guard = guard.start(
                argv,
                told=SHUTDOWN,
                orphaned=SHUTDOWN,
                account=account.popen_kwargs(),
                stdout=log,
                stderr=log,
                cwd="/",
                env=clean_env(),
                pass_fds=() if self._lock is None else (self._lock,),
            )
        finally:
            os.close(log)
        while True:
            pid, status = recorded_postmaster(real)
            if status == "ready":
                self._pid = pid
                return True
            exited = self._guard.poll() is not None
            if not exited and time.monotonic() < deadline:
                time.sleep(POLL)
                continue
            with self.log_path.open("rb") as file:
                file.seek(log_start)
                tail = file.read().decode(errors="replace")
            if "pre-existing shared memory block" in tail and time.monotonic() < deadline:
                return False
            raise EmbeddedPostgresError(
                "The embedded Postgres did not start."
                if exited
                else f"The embedded Postgres was not ready within {START_TIMEOUT:g} seconds.",
                detail=tail.strip()[-2000:] or None,
                hint=f"Its log is {self.log_path}.",
            )

    def _set_password(self) -> None:
        if self._password is None:
            return
        import psycopg  # here, because only TCP needs it
        from psycopg import sql

        with psycopg.connect(self.url(), autocommit=True) as conn:
            # Hashed on this side, so that the password itself can't reach a log.
            hashed = conn.pgconn.encrypt_password(self._password.encode(), SUPERUSER.encode(), b"scram-sha-256")
            role = sql.Identifier(SUPERUSER)
            conn.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(role, sql.Literal(hashed.decode())))


def _binaries_for(real: Path) -> Path:
    version = real / "PG_VERSION"
    return find_binaries(int(version.read_text()) if version.exists() else None)


def _lock(real: Path, account: Account) -> int:
    """Lock the data folder for this process and its guard; waits while the guard of a dead owner stops its server."""
    fd = os.open(real.with_name(real.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + FAST_TIMEOUT + 15
    try:
        account.own(fd)
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(fd, 0)
                os.pwrite(fd, b"%d" % os.getpid(), 0)
                return fd
            owner = os.pread(fd, 32, 0)
            if (owner.isdigit() and is_alive(int(owner))) or time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"Another process runs the Postgres in {real}.",
                    detail=f"Its process id is {owner.decode(errors='replace') or 'unknown'}.",
                    hint="Stop that one first, or choose another folder by PGFLEET_DIR (or --dir).",
                )
            time.sleep(POLL)
    except BaseException:
        os.close(fd)
        raise


def _ensure_cluster(real: Path, bin_dir: Path, account: Account) -> None:
    """Make the cluster unless it is there: aside first, renamed when it is whole, so that a killed one is no trap."""
    version = real / "PG_VERSION"
    major = major_version(bin_dir)
    if version.exists():
        if int(version.read_text()) != major:
            raise EmbeddedPostgresError(
                f"The database in {real} was made by Postgres {version.read_text().strip()}; {bin_dir} holds {major}.",
                hint="Use the version that made it, or dump and restore it into a new folder.",
            )
        if real.stat().st_uid != account.uid:
            raise EmbeddedPostgresError(
                f"The database in {real} belongs to uid {real.stat().st_uid}, not to {account.uid}.",
                hint="Run as that user, or choose another folder by PGFLEET_DIR (or --dir).",
            )
        return
    if real.exists() and any(real.iterdir()):
        raise EmbeddedPostgresError(f"{real} is not empty and holds no database.", hint="Choose another folder.")
    partial = real.with_name(real.name + ".initdb")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    account.own(partial)
    # The builtin provider sorts alike on every system and needs no locale of the system's.
    locale = ["--locale=C"] + (["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if major >= 17 else [])
    who = [f"--username={SUPERUSER}", "--auth-local=trust", "--auth-host=scram-sha-256"]
    how = ["--encoding=UTF8", "--no-sync", "--no-instructions"]
    _initdb(bin_dir, account, [*who, *how, *locale, "-D", str(partial)])
    # One pass at the end instead of one while it writes.
    _initdb(bin_dir, account, ["--sync-only", "-D", str(partial)])
    partial.rename(real)
    parent = os.open(real.parent, os.O_RDONLY)
    os.fsync(parent)
    os.close(parent)


def _initdb(bin_dir: Path, account: Account, arguments: list[str]) -> None:
    done = account.run([bin_dir / "initdb", *arguments])
    if done.returncode != 0:
        raise EmbeddedPostgresError("initdb failed.", detail=done.stdout.strip()[-2000:])


def _open_log(path: Path, account: Account) -> int:
    if path.exists() and path.stat().st_size > LOG_MAX:
        path.rename(path.with_name(path.name + ".1"))
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    account.own(fd)
    return fd
