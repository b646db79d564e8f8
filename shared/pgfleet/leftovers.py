"""What lies on the export volume and may have to go: found and removed by name, never outside the folder.

The folder is opened once, and all is done relative to that descriptor: should somebody put a symbolic link in its place
meanwhile, it leads nowhere. Only regular files with names as :mod:`pgfleet.volume` makes them are ever touched.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pgfleet import volume
from pgfleet.volume import VolumeError

_MARK = re.compile(r"\.pgfleet_[0-9a-f-]{36}", re.ASCII)


class ForeignVolume(VolumeError):
    """Another fleet keeps its files on this volume too."""


@dataclass(frozen=True)
class Leftover:
    """A file of ours: ``attempt`` is (task id, attempt) while it is not whole, None once it has its final name."""

    name: str
    bytes: int
    written: datetime
    attempt: tuple[int, int] | None


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[int]:
    """A descriptor of the folder. Raises :class:`VolumeError` where there is none."""
    with volume.errors_explained():
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def find(folder: int, before: datetime) -> list[Leftover]:
    """The files of ours in the open ``folder`` that were last written ``before``. Raises :class:`VolumeError`."""
    found = []
    with volume.errors_explained(), os.scandir(folder) as entries:
        for entry in entries:
            attempt = volume.parse_temporary_name(entry.name)
            if attempt is None and not volume.is_final_name(entry.name):
                continue
            with contextlib.suppress(FileNotFoundError):  # renamed or removed since
                file = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(file.st_mode) and file.st_mtime < before.timestamp():
                    written = datetime.fromtimestamp(max(file.st_mtime, 0.0), UTC)
                    found.append(Leftover(entry.name, file.st_size, written, attempt))
    return found


def remove(folder: int, name: str) -> bool:
    """Remove one file of ours from the open ``folder``; False where it is gone already.

    Raises :class:`VolumeError` where it can't be removed, and ``ValueError`` for a name that is none of ours.
    """
    if volume.parse_temporary_name(name) is None and not volume.is_final_name(name):
        raise ValueError(f"{name!r} is no export's name")
    try:
        with volume.errors_explained():
            if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                raise ValueError(f"{name} is no regular file")
            os.unlink(name, dir_fd=folder)
    except VolumeError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return False
        raise
    return True


def mark(folder: int, fleet: str) -> datetime:
    """Say that ``fleet`` (a UUID) keeps its files here; answers since when.

    Raises :class:`ForeignVolume` where another fleet says so too, which then learns it likewise.
    """
    mine = f".pgfleet_{fleet}"
    with volume.errors_explained():
        with contextlib.suppress(FileExistsError):
            os.close(os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640, dir_fd=folder))
        others = [name for name in os.listdir(folder) if _MARK.fullmatch(name) and name != mine]
        since = os.stat(mine, dir_fd=folder, follow_symlinks=False).st_mtime
    if others:
        raise ForeignVolume(
            "Another fleet keeps its files on the same export volume: nothing is swept.",
            detail=f"It holds {', '.join(sorted(others))} besides {mine}.",
            hint="Give each fleet a volume of its own; where the other one is no more, remove its mark.",
        )
    return datetime.fromtimestamp(since, UTC)
