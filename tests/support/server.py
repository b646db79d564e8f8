"""The Postgres server of a test run, as ``PGFLEET_TEST_DB`` asks for it.

===========  ===================================================================================================
``docker``   testcontainers, ``postgres:18-alpine``; fails where no engine answers
``embedded`` :class:`pgfleet.embedded.EmbeddedPostgres`, of the binaries in ``PGFLEET_TEST_PG_BIN`` where it is set
``url``      the server of ``PGFLEET_TEST_DATABASE_URL``, as a user who may create databases; its settings are its own
``auto``     (the default) docker where it works, else embedded
===========  ===================================================================================================

Docker's and the embedded server run with fsync off: they never survive a crash of the machine, and need not. A test
that stops Postgres or asks for durability takes a server of its own (the fixture ``own_postgres``).
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IMAGE = "postgres:18-alpine"
MODES = ("auto", "docker", "embedded", "url")
FAST = {"fsync": "off", "full_page_writes": "off", "max_connections": "300"}


@dataclass(frozen=True)
class Server:
    """A running server: ``url`` of its ``postgres`` database, and how it came to be, in words."""

    url: str
    mode: str
    stop: Callable[[], None]


def start() -> Server:
    """Start (or find) the server of this run; the caller stops it."""
    mode = os.environ.get("PGFLEET_TEST_DB") or "auto"
    if mode not in MODES:
        raise ValueError(f"PGFLEET_TEST_DB is {mode!r}: expected one of {', '.join(MODES)}")
    if mode == "url":
        url = os.environ.get("PGFLEET_TEST_DATABASE_URL")
        if not url:
            raise ValueError("PGFLEET_TEST_DB=url needs PGFLEET_TEST_DATABASE_URL")
        return Server(url, "url", lambda: None)
    if mode == "docker":
        return _docker()
    # Binaries of one's own choosing are a wish for the embedded server.
    if mode == "auto" and not os.environ.get("PGFLEET_TEST_PG_BIN") and _engine_answers():
        try:
            return _docker()
        except Exception as error:  # an engine that can't get the image, or can't run it
            warnings.warn(f"Docker answers, but {IMAGE} did not start ({error}); tests use embedded", stacklevel=2)
    return _embedded()


def _engine_answers() -> bool:
    try:
        import docker

        client = docker.from_env(timeout=5)
        try:
            return bool(client.ping())
        finally:
            client.close()
    except Exception:  # docker's and requests' many ways to say no
        return False


def _docker() -> Server:
    try:
        from testcontainers.community.postgres import PostgresContainer
    except ImportError:  # before testcontainers 4.15
        from testcontainers.postgres import PostgresContainer

    command = "postgres " + " ".join(f"-c {name}={value}" for name, value in FAST.items())
    container = PostgresContainer(IMAGE, username="postgres", password="test", dbname="postgres", driver=None)
    container.with_command(command)
    container.start()
    return Server(container.get_connection_url(), f"docker ({IMAGE})", container.stop)


def _embedded() -> Server:
    bin_dir = os.environ.get("PGFLEET_TEST_PG_BIN")
    postgres, stop = embedded(Path(bin_dir) if bin_dir else None, FAST)
    return Server(postgres.url(), "embedded", stop)


def embedded(bin_dir: Path | None, options: dict[str, str]) -> tuple[Any, Callable[[], None]]:
    """A started EmbeddedPostgres in a folder of its own, and what stops and removes it."""
    from pgfleet.embedded import EmbeddedPostgres

    # Not pytest's folder: that one is 0700, and as root the server runs under another account.
    folder = Path(tempfile.mkdtemp(prefix="pgfleet-test-"))
    folder.chmod(0o711)
    postgres = EmbeddedPostgres(folder / "pg", bin_dir=bin_dir, options=options)

    def stop() -> None:
        postgres.remove()
        shutil.rmtree(folder, ignore_errors=True)

    try:
        postgres.start()
    except BaseException:
        stop()
        raise
    return postgres, stop
