"""The keeper: a small process beside the worker, in which its heart beats.

A thread can't keep a lease: while C code holds the interpreter's lock (a regular expression gone wild, a number with
millions of digits) it does not run at all, and among a hundred threads busy in Python its beats came 2.4 s late. The
keeper is forked before the worker has threads, so that they share their memory; it knows at once when the worker dies,
and then gives its tasks to the others; and while the worker stands still it lets the lease lapse.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from pgfleet import log
from pgfleet.settings import Settings
from pgfleet_worker.heart import Heart, Link

#: What a terminal, a supervisor or a container's runtime sends to all of a worker's processes. The worker decides.
DEAF_TO = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Parent:
    """The process that forked us, as Linux shows it. Raises ProcessLookupError where it is dead already."""

    def __init__(self, pid: int) -> None:
        self._fd = os.pidfd_open(pid)
        self._pid = pid
        self._stat = Path(f"/proc/{pid}/stat")

    def fileno(self) -> int:
        """Readable once it is dead."""
        return self._fd

    def is_dead(self) -> bool:
        """Orphans have another parent."""
        return os.getppid() != self._pid

    def is_stopped(self) -> bool:
        """T: stopped by a signal; t: by a debugger. The state follows the name, which may hold anything."""
        try:
            state = self._stat.read_bytes().rpartition(b")")[2].split()[0]
        except (OSError, IndexError):
            return False
        return state in (b"T", b"t")


@dataclass(frozen=True)
class Keeper:
    """The worker's view of its keeper."""

    pid: int
    link: Link


def fork(settings: Settings) -> Keeper | None:
    """Fork the keeper of this process, which must have no other thread yet.

    None where the system can't show it what it needs to see (only Linux does): then a thread has to keep the lease.
    """
    if not hasattr(os, "pidfd_open") or not Path("/proc/self/stat").exists():
        return None
    ours, theirs = Link.pair()
    parent = os.getpid()
    gc.collect()
    with contextlib.suppress(AttributeError):  # glibc's: what the imports no longer need, 1 MB in each of the two
        ctypes.CDLL(None).malloc_trim(0)
    gc.freeze()  # for good, in both: a collection would write to every object, and so copy every page
    pid = os.fork()
    if pid:
        theirs.close()
        return Keeper(pid, ours)
    code = 70
    try:
        ours.close()
        for number in DEAF_TO:
            signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(OSError):
            Path("/proc/self/comm").write_text("pgfleet-keeper")
        Heart(settings, log.get(), theirs, Parent(parent)).run()
        code = 0
    except ProcessLookupError:
        code = 0  # it is dead already, and has registered nothing
    except BaseException:
        log.get().critical("worker.broken", thread="keeper", problem=traceback.format_exc())
    finally:
        sys.stderr.flush()
        os._exit(code)
