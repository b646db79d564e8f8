"""Folders for tests of the shared volume: what is in them, files as fleets leave them there, and one that soon is full."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet import Connection, value

#: The name of an export.
WHOLE = "export_260131_aaaaaaaaaaaa.csv"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextlib.contextmanager
def tiny_disk(folder: Path) -> Iterator[Path]:
    """A file system of 128 KiB, where this process may mount one."""
    folder.mkdir(exist_ok=True)
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)], capture_output=True
    ).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def place(folder: Path, name: str, hours: float = 2.0) -> Path:
    """A file last written so many hours ago."""
    path = folder / name
    path.write_text("title\n")
    return written(path, hours)


def written(path: Path, hours: float) -> Path:
    then = time.time() - hours * 3600
    os.utime(path, (then, then), follow_symlinks=False)
    return path


def marked(conn: Connection, folder: Path) -> None:
    """The fleet has kept its files here for two days."""
    place(folder, f".pgfleet_{value(conn, 'select id::text from fleet_identity')}", hours=48)
