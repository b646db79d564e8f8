"""Runs one process of ``pgfleet up`` as its child, and ends it when the owner dies, however it dies.

Started as ``python -I -S guard.py <json>``; standard library only. Standard input is a pipe whose other end only the
owner holds: end of file means that the owner is gone or in a hurry. SIGTERM means: end it, with all the grace it was
promised. The child leads a session of its own, so Ctrl-C on the owner's terminal does not reach it, and its whole group
is killed at the end: a server's own children must not keep the port. Exits as the child did.
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
from typing import Any

PR_SET_PDEATHSIG = 1

#: Seconds a child has to end once its owner is gone.
HURRY = 2.0


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
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != guard:
                os._exit(1)

    child = subprocess.Popen(
        job["argv"],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=before_exec,  # safe: the guard has one thread
    )
    watched, deadline = [0, read_end], float("inf")
    while child.poll() is None and time.monotonic() < deadline:
        ready, _, _ = select.select(watched, [], [], min(1.0, max(0.0, deadline - time.monotonic())))
        ends_in = None
        if read_end in ready and signal.SIGTERM in os.read(read_end, 64):
            ends_in = job["grace"]
        # The parentage is watched as well: a forked child of the owner could hold the pipe open for it.
        if 0 in watched and (0 in ready or os.getppid() != job["owner"]):
            watched, ends_in = [read_end], HURRY
        if ends_in is not None:
            child.terminate()
            deadline = min(deadline, time.monotonic() + ends_in)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
