"""Runs one process as its child, and ends it when the owner dies, however it dies.

Started by its path, as ``python -I -S guard.py <json>`` (:func:`start`); standard library only. Standard input is a pipe
whose other end only the owner holds: end of file means that the owner closed it or is gone, kill -9 included. SIGTERM means:
end the child, with all the grace it was promised. The guard leads a session of its own, so Ctrl-C on the owner's
terminal does not reach it; what descriptors it inherits, such as the owner's locks, are held until the child has ended. Exits
as the child did, with 128 + the number of the signal that ended it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

PR_SET_PDEATHSIG = 1

#: Signals to send one after the other, each with the seconds until the next; SIGKILL comes last, unnamed.
Ending = Sequence[tuple[int, float]]


def start(
    argv: Sequence[str],
    *,
    told: Ending,
    orphaned: Ending,
    group: bool = False,
    account: Mapping[str, Any] | None = None,
    **popen: Any,
) -> subprocess.Popen[bytes]:
    """Start a guard, and ``argv`` under it; the caller holds the pipe ``stdin`` until the child may end.

    ``told`` is how the child is ended on SIGTERM, ``orphaned`` when the owner is gone or has closed the pipe; should the guard
    itself be killed, the kernel sends the first of the latter (Linux). ``group``: the child leads a session of its own, all
    of whose processes are killed at its end. ``account``: subprocess's arguments to run as another user. ``popen`` is
    for the guard.
    """
    job = {
        "argv": list(argv),
        "owner": os.getpid(),
        "told": told,
        "orphaned": orphaned,
        "group": group,
        "account": account or {},
    }
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, json.dumps(job)],
        stdin=subprocess.PIPE,
        start_new_session=True,
        **popen,
    )


def main() -> int:
    job: dict[str, Any] = json.loads(sys.argv[1])
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    # The handlers do nothing: each signal's number arrives in the pipe, where select() sees it.
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    for noted in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(noted, lambda *_: None)

    libc = ctypes.CDLL(None)
    guard = os.getpid()

    def before_exec() -> None:
        for reset in (signal.SIGINT, signal.SIGHUP):
            signal.signal(reset, signal.SIG_DFL)
        # Linux only: should the guard be killed too.
        with contextlib.suppress(AttributeError):
            libc.prctl(PR_SET_PDEATHSIG, job["orphaned"][0][0])
            if os.getppid() != guard:
                os._exit(1)

    child = subprocess.Popen(
        job["argv"],
        stdin=subprocess.DEVNULL,
        start_new_session=job["group"],
        preexec_fn=before_exec,  # safe: the guard has one thread
        **job["account"],
    )
    code = watch(child, job, read_end)
    return code if code >= 0 else 128 - code


def watch(child: subprocess.Popen[bytes], job: Mapping[str, Any], signals: int) -> int:
    """Wait for the child's end, or bring it about; answers what ``wait()`` does. ``signals``: the signals' numbers."""
    watched, ending, deadline = [0, signals], [], float("inf")
    while child.poll() is None:
        ready, _, _ = select.select(watched, [], [], min(1.0, max(0.0, deadline - time.monotonic())))
        now, began = time.monotonic(), False
        if signals in ready and signal.SIGTERM in os.read(signals, 64):
            ending, began = list(job["told"]), True
        # The parentage is watched as well: a forked child of the owner could hold the pipe open for it.
        if 0 in watched and (0 in ready or os.getppid() != job["owner"]):
            watched, ending, began = [signals], list(job["orphaned"]), True
        if not began and now < deadline:
            continue
        if not ending:
            break
        how, seconds = ending.pop(0)
        child.send_signal(how)
        deadline = min(deadline, now + seconds) if began else now + seconds  # an owner that dies hurries, never delays
    if job["group"]:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    else:
        child.kill()  # nothing, where it has ended
    return child.wait()


if __name__ == "__main__":
    sys.exit(main())
