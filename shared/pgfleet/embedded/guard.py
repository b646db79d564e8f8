"""Runs Postgres as its child and stops it when the owner dies, however it dies. Standard library only.

Started as ``python -I -S guard.py <json>``. Standard input is a pipe whose other end only the owner holds: it reports
end of file when the owner closes it or is gone, kill -9 included. The guard has a session of its own, so Ctrl-C on
the owner's terminal does not reach it. The owner's lock on the data folder is inherited, and so held until
Postgres has stopped. Exits with Postgres's exit code.
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
from typing import Any

PR_SET_PDEATHSIG = 1


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
        # Linux only: should the guard be killed too, the kernel asks Postgres for a fast shutdown.
        with contextlib.suppress(AttributeError):
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGINT)
            if os.getppid() != guard:
                os._exit(1)

    postgres = subprocess.Popen(
        job["argv"],
        stdin=subprocess.DEVNULL,
        preexec_fn=before_exec,  # safe: the guard has one thread
        **job["popen"],
    )
    while postgres.poll() is None:
        # The owner's parentage is watched as well: a forked child of the owner could hold the pipe open for it.
        ready, _, _ = select.select([0, read_end], [], [], 1.0)
        if 0 in ready or os.getppid() != job["owner"]:
            return stop(postgres, job["fast_timeout"])
        if read_end in ready and signal.SIGTERM in os.read(read_end, 64):
            return stop(postgres, job["fast_timeout"])
    return postgres.returncode


def stop(postgres: subprocess.Popen[bytes], fast_timeout: float) -> int:
    """Fast shutdown; where that takes longer than ``fast_timeout`` seconds, an immediate one, which is crash-safe."""
    for how, timeout in ((signal.SIGINT, fast_timeout), (signal.SIGQUIT, 10.0), (signal.SIGKILL, None)):
        postgres.send_signal(how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return postgres.wait(timeout)
    return 1


if __name__ == "__main__":
    sys.exit(main())
