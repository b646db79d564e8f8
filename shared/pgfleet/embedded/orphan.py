"""Finding and ending a Postgres whose owner and guard were killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from pgfleet.embedded.errors import EmbeddedPostgresError

PROC = Path("/proc")


def recorded_postmaster(data_dir: Path) -> tuple[int, str]:
    """Process id and status ("starting", "ready", …) from ``postmaster.pid``; ``(0, "")`` where there is none."""
    try:
        lines = (data_dir / "postmaster.pid").read_text(errors="replace").splitlines()
        return int(lines[0]), lines[7].strip() if len(lines) > 7 else ""
    except (FileNotFoundError, ValueError, IndexError):  # Postgres writes the file line by line
        return 0, ""


def is_alive(pid: int) -> bool:
    """Whether ``pid`` runs. A zombie does not: its parent has only not asked for its exit code yet."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        return (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return not (PROC / "self").exists()


def stop_orphan(data_dir: Path, fast_timeout: float) -> None:
    """Stop the postmaster recorded in ``data_dir`` if it still runs: fast, immediate after ``fast_timeout`` seconds."""
    pid, _ = recorded_postmaster(data_dir)
    # The command line is read rather than the working folder, which root in a container may not see of another user.
    if pid <= 0 or not _serves(pid, data_dir):
        return
    for how, timeout in ((signal.SIGINT, fast_timeout), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + timeout
        try:
            os.kill(pid, how)
        except ProcessLookupError:
            return
        while time.monotonic() < deadline:
            if not _serves(pid, data_dir):
                return
            time.sleep(0.01)
    raise EmbeddedPostgresError(f"A Postgres that nobody owns runs in {data_dir} and can't be stopped: process {pid}.")


def _serves(pid: int, data_dir: Path) -> bool:
    """Whether ``pid`` is a living postmaster of ``data_dir``, and no later process that was given its number."""
    if not is_alive(pid):
        return False
    if (PROC / "self").exists():
        try:
            words = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return b"-D" in words and os.fsencode(data_dir) in words
    # Systems without /proc.
    shown = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return f"-D {data_dir}" in shown
