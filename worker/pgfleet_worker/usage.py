"""What a task costs the process that runs it: processor seconds and peak memory, of one task at a time or of several."""

from __future__ import annotations

import contextlib
import re
import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_PEAK = re.compile(r"^VmHWM:\s*(\d+) kB$", re.MULTILINE)

#: In bytes: the unit of getrusage's ru_maxrss, which is not the same everywhere.
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


def cpu_seconds() -> float:
    """Processor seconds of this process and of the children it has waited for, so far."""
    mine, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return mine.ru_utime + mine.ru_stime + children.ru_utime + children.ru_stime


def peak_memory() -> int:
    """The most memory this process has held at once, in bytes: since :func:`forget_peak` where that is possible."""
    with contextlib.suppress(OSError):
        found = _PEAK.search(_STATUS.read_text(encoding="ascii", errors="replace"))
        if found:
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT


def forget_peak() -> bool:
    """Have the peak count anew from what is held now (proc_pid_clear_refs(5)); False where the system can't."""
    try:
        _CLEAR.write_bytes(b"5")
    except OSError:
        return False
    return True


class Meter:
    """Measures one task: made at its start, read at its end. ``fresh``: it is the first of its process, whose peak is its
    own in any case."""

    def __init__(self, *, fresh: bool) -> None:
        self._peak_is_its_own = forget_peak() or fresh
        self._cpu = cpu_seconds()

    def read(self) -> tuple[float, int | None]:
        """(processor seconds, peak memory in bytes or None where it may be an earlier task's)."""
        return cpu_seconds() - self._cpu, peak_memory() if self._peak_is_its_own else None


@dataclass
class Cost:
    """Of one run, once it has ended; the peak is None where the system can't tell."""

    cpu_seconds: float | None = None
    peak_memory: int | None = None


class Shared:
    """What runs cost that share a process: each thread's own processor time, and the process's peak of memory while they ran.

    The peak counts anew when nothing runs: of runs beside each other, it is at most that since the first of them began.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._knows_peak = False
        #: How many are measured now.
        self.running = 0

    @contextmanager
    def measured(self) -> Iterator[Cost]:
        """Measure what the calling thread does in the block."""
        cost = Cost()
        with self._lock:
            if self.running == 0:
                self._knows_peak = forget_peak()
            self.running += 1
        began = time.thread_time()
        try:
            yield cost
        finally:
            cost.cpu_seconds = time.thread_time() - began
            with self._lock:
                cost.peak_memory = peak_memory() if self._knows_peak else None
                self.running -= 1
