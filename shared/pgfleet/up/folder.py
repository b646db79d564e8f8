"""The folder of one ``pgfleet up``: who has it, its secret, and ``up.json``, by which the CLI finds what runs."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pgfleet.embedded.orphan import is_alive
from pgfleet.up.errors import UpError

#: Seconds that what a killed run leaves behind may take to end: its guards give it 2, its Postgres longer.
PATIENCE = 30.0


class Folder:
    """The folder, held by this process: made by :meth:`hold` alone."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        #: The descriptor of the lock. Guards inherit it: the folder is held until the last process has ended.
        self.lock = lock
        self.exports = path / "exports"
        self.logs = path / "logs"
        self.up_json = path / "up.json"

    @classmethod
    @contextlib.contextmanager
    def hold(cls, path: Path) -> Iterator[Folder]:
        """``path``, made where it is missing, for this process alone. Raises :class:`UpError` where another has it."""
        path = path.absolute()
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = _lock(path)
        except OSError as error:
            raise UpError(
                f"The folder {path} can't be used: {error.strerror}.",
                detail=None if error.filename in (None, str(path)) else f"It is {error.filename} that can't.",
                hint="Run as the user who made it, or choose another one by --dir (or PGFLEET_DIR).",
            ) from error
        try:
            folder = cls(path, lock)
            folder.up_json.unlink(missing_ok=True)  # a killed run's: what it says runs no longer
            for private in (folder.exports, folder.logs):
                private.mkdir(mode=0o700, exist_ok=True)
            try:
                yield folder
            finally:
                folder.up_json.unlink(missing_ok=True)
        finally:
            os.close(lock)

    def secret(self) -> str:
        """The secret that tokens are signed with, made at the first call, kept so that they survive a restart."""
        path = self.path / "secret"
        with contextlib.suppress(FileNotFoundError):
            kept = path.read_text(encoding="utf-8").strip()
            if kept:
                return kept
        made = secrets.token_urlsafe(32)
        _write_private(path, made + "\n")
        return made

    def publish(self, up: Mapping[str, Any]) -> None:
        """Write ``up.json``: it appears whole, readable by this user alone."""
        _write_private(self.up_json, json.dumps(up, indent=2) + "\n")


def _write_private(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.new")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    partial.replace(path)


def _lock(path: Path) -> int:
    lock = os.open(path / "up.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + PATIENCE
    try:
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(lock, 0)
                os.pwrite(lock, b"%d" % os.getpid(), 0)
                return lock
            owner = os.pread(lock, 32, 0)
            # A dead owner's guards hold the lock a moment longer: they are ending what it started.
            if (owner.isdigit() and is_alive(int(owner))) or time.monotonic() > deadline:
                raise UpError(
                    f"Another `pgfleet up` runs in {path}: {_who(path, owner.decode(errors='replace'))}.",
                    hint="Use that one, stop it first, or choose another folder by --dir (or PGFLEET_DIR).",
                )
            time.sleep(0.02)
    except BaseException:
        os.close(lock)
        raise


def _who(path: Path, owner: str) -> str:
    who = f"process {owner or 'unknown'}"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        who += f", at {json.loads((path / 'up.json').read_text(encoding='utf-8'))['api_url']}"
    return who
