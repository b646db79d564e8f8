"""Contention: does this thread get a processor when it wants one?

Asked by those who may leave work to others: on a machine whose processors are all taken one more worker takes its part of
them from those that do the work.
"""

from __future__ import annotations

from pathlib import Path

ACCOUNT = Path("/proc/thread-self/schedstat")
#: Nanoseconds of wanting a processor, at least, over which it is measured.
LEAST = 1_000_000
#: Waited for more than this part of them, the processors are taken.
TAKEN = 0.5


class Contention:
    """Of the thread that asks. By the kernel's own account, Linux's ``/proc/thread-self/schedstat`` (nanoseconds run,
    nanoseconds waited: sched-stats.rst); where there is none, the processors count as free."""

    def __init__(self) -> None:
        self._before = (0, 0)
        self._taken = False

    def is_high(self) -> bool:
        """Did this thread wait for a processor for longer than it had one, since it last asked?"""
        ran, waited = self._account()
        wanted = ran - self._before[0] + waited - self._before[1]
        if wanted >= LEAST:
            self._taken = waited - self._before[1] > TAKEN * wanted
            self._before = ran, waited
        return self._taken

    def _account(self) -> tuple[int, int]:
        try:
            ran, waited, _ = ACCOUNT.read_bytes().split()
        except (OSError, ValueError):
            return 0, 0
        return int(ran), int(waited)
