"""Child processes of a benchmark: none outlives it, however it ends."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import Any

ROOT = Path(__file__).parents[2]
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class BenchmarkFailed(RuntimeError):
    """A scenario can't be measured; the message says why."""


def die_with_parent() -> None:
    """Called in a child: it goes when its parent does, however that ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without its PGFLEET_*, able to import the project, ``extra`` on top."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PGFLEET_")}
    paths = [str(ROOT), *(str(ROOT / part) for part in ("api", "worker", "shared")), env.get("PYTHONPATH", "")]
    return {**env, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **(extra or {})}


@contextmanager
def _interrupted_later() -> Iterator[None]:
    """Hold a Ctrl-C or SIGTERM back until the end: Python drops what a signal's handler raises while it forks."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread runs handlers
        yield
        return
    noted: list[int] = []
    before = {number: signal.signal(number, lambda which, _: noted.append(which)) for number in (SIGINT, SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in noted[:1]:
            signal.raise_signal(number)


class Child:
    """One process in a session of its own. Its stderr (and stdout unless ``talks``) goes to a file that errors quote."""

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, talks: bool = False) -> None:
        self.argv = list(argv)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process is ours
        with _interrupted_later():
            self.popen = subprocess.Popen(
                self.argv,
                cwd=ROOT,
                env=environment(env),
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else self._log,
                stderr=self._log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    @property
    def name(self) -> str:
        """Its first words, without folders: for messages that end up in RESULTS.md."""
        return " ".join(Path(word).name for word in self.argv[:4])

    @property
    def pid(self) -> int:
        return self.popen.pid

    def resident(self) -> int:
        """Resident memory in bytes, with that of its children as far as they don't share it."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024 + sum(_private(child) for child in self._children())
        raise BenchmarkFailed(f"{self.name} has ended")

    def cpu(self) -> float:
        """Processor time so far, in seconds, with that of its living children."""
        ticks = 0
        for pid in (self.pid, *self._children()):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def _children(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def check(self) -> None:
        """Raise :class:`BenchmarkFailed` with its last words if it has ended."""
        if self.popen.poll() is not None:
            raise BenchmarkFailed(f"{self.name} ended with {self.popen.returncode}:\n{self.words()}")

    def words(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-3000:]

    def line(self) -> str:
        """The next line of a process that talks."""
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        if not line:
            self.popen.wait(10)
            self.check()
        return line.decode().strip()

    def answer(self) -> dict[str, Any]:
        """Its next line, as JSON."""
        answer: dict[str, Any] = json.loads(self.line())
        return answer

    def tell(self, line: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(line.encode() + b"\n")
        self.popen.stdin.flush()

    def stop(self, timeout: float = 15.0) -> None:
        """SIGTERM, then SIGKILL for its whole session."""
        if self.popen.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.popen.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(timeout)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.popen.wait(10)
        for pipe in (self.popen.stdin, self.popen.stdout, self._log):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


@contextmanager
def children(
    argvs: Sequence[Sequence[str]], *, env: Mapping[str, str] | None = None, talks: bool = False
) -> Iterator[list[Child]]:
    """Processes started together; all are gone after the block."""
    started: list[Child] = []
    try:
        for argv in argvs:
            started.append(Child(argv, env=env, talks=talks))  # noqa: PERF401 - those before a failure are to be stopped
        yield started
    finally:
        for child in started:  # all at once: a fleet's shutdown takes as long as its slowest worker
            if child.popen.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    child.popen.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 15
        for child in started:
            child.stop(max(0.1, deadline - time.monotonic()))


def module(name: str, *arguments: object) -> list[str]:
    """The command line of one of the project's modules."""
    return [sys.executable, "-m", name, *map(str, arguments)]


def _private(pid: int) -> int:
    """The bytes of a process's memory that are its alone."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:")))
