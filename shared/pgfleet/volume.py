"""The volume that API and workers share: files appear on it whole, under their final name, or not at all.

A file is written under a hidden temporary name on the same volume, flushed to the disk, renamed, and then the folder is
flushed too; only after that may the database say that it exists. The temporary name carries the task and the
*attempt*, by which a sweep knows whose it is, and is never the same twice: whoever lost the task without noticing can
neither write into the winner's file nor rename it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
import string
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from pgfleet.errors import PgfleetError

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}\.csv", re.ASCII)
_TEMPORARY = re.compile(r"\.export_(\d{1,19})_(\d{1,10})(_[A-Za-z0-9]{8})?\.tmp", re.ASCII)
_FINAL = re.compile(r"export_\d{6}_[A-Za-z0-9]{12}\.csv", re.ASCII)
_ALPHABET = string.ascii_letters + string.digits

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN})
_HINT = "An operator has to look at the volume that PGFLEET_EXPORT_DIR names."


class VolumeError(PgfleetError):
    """The shared volume could not be written or read. The words are fit for a reader: they name no path."""


class NoSuchFile(VolumeError):
    """No finished export of that name lies on the volume, or the name is none that an export can have."""


def final_name(now: datetime | None = None) -> str:
    """A new name for a finished export: ``export_<yymmdd, UTC>_<12 random letters and digits>.csv`` (71 bits)."""
    day = (now or datetime.now(UTC)).astimezone(UTC).strftime("%y%m%d")
    return f"export_{day}_{''.join(secrets.choice(_ALPHABET) for _ in range(12))}.csv"


def temporary_name(task_id: int, attempt: int) -> str:
    """A new hidden name for an attempt to write under until its file is whole.

    New at each call: a claim that a crash of Postgres took back may be made again under the same attempt's number.
    """
    return f".export_{task_id}_{attempt}_{''.join(secrets.choice(_ALPHABET) for _ in range(8))}.tmp"


def parse_temporary_name(name: str) -> tuple[int, int] | None:
    """(task id, attempt) of a temporary file, or None where ``name`` is not one: for sweeping up."""
    match = _TEMPORARY.fullmatch(name)
    named = (int(match[1]), int(match[2])) if match else None
    return named if named and named[0] < 2**63 and named[1] < 2**31 else None


def is_final_name(name: str) -> bool:
    """Could :func:`final_name` have made ``name``?"""
    return _FINAL.fullmatch(name) is not None


@contextlib.contextmanager
def errors_explained() -> Iterator[None]:
    """Turn an ``OSError`` of the block into :class:`VolumeError`."""
    try:
        yield
    except OSError as error:
        raise _explain(error) from error


class ExportWriter:
    """A file being written. ``bytes`` and the SHA-256 cover what :meth:`write` was given so far."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._digest = hashlib.sha256()
        self.bytes = 0

    @property
    def sha256(self) -> str:
        """Hexadecimal SHA-256."""
        return self._digest.hexdigest()

    def write(self, data: bytes | bytearray) -> None:
        """Append ``data``, unbuffered: give it large pieces. Raises :class:`VolumeError`."""
        with errors_explained(), memoryview(data) as rest:
            self._digest.update(rest)
            written = 0
            while written < len(rest):  # a nearly full disk takes a part first and says ENOSPC at the next call
                written += os.write(self._descriptor, rest[written:])
        self.bytes += len(data)


@contextlib.contextmanager
def publish(folder: Path, *, temporary: str, final: str) -> Iterator[ExportWriter]:
    """Write a file into ``folder``: after the block it stands under ``final``, on the disk; after an error, nowhere.

    Raises :class:`VolumeError` where the volume is missing, full or not writable; the block's own errors pass through.
    """
    path, target = folder / temporary, folder / final
    with errors_explained():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        try:
            yield ExportWriter(descriptor)
            with errors_explained():
                os.fsync(descriptor)
        finally:
            with errors_explained():
                os.close(descriptor)  # where a network volume may first say that it is full
        with errors_explained():
            path.rename(target)
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise
    try:
        with errors_explained():
            _sync_folder(folder)
    except VolumeError:
        with contextlib.suppress(OSError):
            target.unlink()
        raise


def open_export(folder: Path, filename: str) -> BinaryIO:
    """A finished export, open for reading; the caller closes it.

    Whatever is not the plain name of a regular file in ``folder`` (``../``, an absolute path, NUL, a symbolic link, a
    temporary file) raises :class:`NoSuchFile`, as a missing file does; an unreadable volume :class:`VolumeError`.
    """
    missing = NoSuchFile("No such file.", hint="Ask for the export anew.")
    if not _NAME.fullmatch(filename):
        raise missing
    try:
        descriptor = os.open(folder / filename, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR) and folder.is_dir():
            raise missing from error
        raise _explain(error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise missing
    return os.fdopen(descriptor, "rb")


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut; some network volumes can't sync a folder, and need not."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _explain(error: OSError) -> VolumeError:
    if error.errno in _FULL:
        return VolumeError("The export volume is full.", hint=_HINT)
    if error.errno in _GONE:
        return VolumeError("The export volume is missing.", hint=_HINT)
    if error.errno in _DENIED:
        return VolumeError("The export volume can't be written to.", detail=error.strerror, hint=_HINT)
    return VolumeError("The export volume failed.", detail=error.strerror, hint=_HINT)
