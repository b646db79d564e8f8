"""For a worker started with ``--handlers tests.support.full_disk``: its fsync finds the disk full while the file exists that
TEST_DISK_FULL_WHILE names.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from pgfleet_worker import Task, handler

_fsync = os.fsync


def _full(descriptor: int) -> None:
    if Path(os.environ["TEST_DISK_FULL_WHILE"]).exists():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    _fsync(descriptor)


os.fsync = _full


@handler("disk_is_full")
def disk_is_full(task: Task) -> bool:
    """Is it?"""
    return Path(os.environ["TEST_DISK_FULL_WHILE"]).exists()
