"""Real processes of ``pgfleet``, as an operator starts them; none outlives its test."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgfleet.settings import Settings
from tests.support.database import environment
from tests.support.waiting import wait_until


@dataclass
class Process:
    """One started process, leader of a process group of its own; what it writes goes to ``log``."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path
    url: str = ""

    @property
    def pid(self) -> int:
        return self.popen.pid

    def text(self) -> str:
        """All it has written so far, on stdout and stderr."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """The events it has logged so far (lines that are no JSON are passed over), or only those named ``name``."""
        found = []
        for line in self.text().splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and (name is None or event.get("event") == name):
                found.append(event)
        return found

    def wait_for_event(self, name: str, timeout: float = 40.0) -> dict[str, Any]:
        """The first event of that name; fails if the process ends before it, or at the deadline (seconds)."""

        def logged() -> dict[str, Any] | None:
            ended = self.popen.poll() is not None
            found = self.events(name)
            if ended and not found:
                raise RuntimeError(f"{self.name} ended with {self.popen.returncode} before {name}:\n{self.text()}")
            return found[0] if found else None

        event = wait_until(logged, timeout, what=f"event {name} of {self.name}")
        assert event is not None
        return event

    def signal(self, number: int) -> None:
        """Send a signal to the process alone, not to its group."""
        self.popen.send_signal(number)

    def stop(self, timeout: float = 40.0) -> int:
        """SIGTERM, then wait for its end (seconds); answers the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def wait(self, timeout: float = 40.0) -> int:
        """Wait for its end (seconds); answers the exit code (negative: the signal that ended it)."""
        return self.popen.wait(timeout)

    def kill(self) -> None:
        """SIGKILL to its whole group, as a server that loses power; returns when the process is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.popen.wait(40)


class Processes:
    """Starts processes for one test; :meth:`end` kills whatever still runs."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self.started: list[Process] = []

    def start(self, *arguments: str, settings: Settings | None = None, env: Mapping[str, str] | None = None) -> Process:
        """``pgfleet ARGUMENTS`` with ``settings`` (default: the test's) as its environment, ``env`` on top."""
        return self.run(sys.executable, "-m", "pgfleet.cli.main", *arguments, settings=settings, env=env)

    def run(self, *argv: str, settings: Settings | None = None, env: Mapping[str, str] | None = None) -> Process:
        """Any program, in the environment :meth:`start` gives."""
        words = argv[3:] if argv[1:3] == ("-m", "pgfleet.cli.main") else argv
        log = self._folder / f"{len(self.started) + 1}-{Path(words[0]).name}.log"
        with log.open("wb") as file:
            popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**environment(settings or self._settings), "PYTHONUNBUFFERED": "1", **(env or {})},
                start_new_session=True,
            )
        process = Process(" ".join(words), popen, log)
        self.started.append(process)
        return process

    def worker(
        self, *arguments: str, settings: Settings | None = None, env: Mapping[str, str] | None = None
    ) -> Process:
        """``pgfleet worker ARGUMENTS``; returns when the process runs, which is before it has registered."""
        return self.start("worker", *arguments, settings=settings, env=env)

    def api(self, *arguments: str, settings: Settings | None = None, env: Mapping[str, str] | None = None) -> Process:
        """``pgfleet api ARGUMENTS`` on a free port; returns with ``url`` set when ``/health`` answers."""
        process = self.start("api", *arguments, settings=settings, env={"PGFLEET_API_PORT": "0", **(env or {})})
        process.url = process.wait_for_event("api.listening")["url"]

        def healthy() -> bool:
            try:
                with urllib.request.urlopen(process.url + "/health", timeout=5) as answer:
                    return bool(answer.status == 200)
            except (urllib.error.URLError, OSError):
                return False

        wait_until(healthy, what="/health")
        return process

    def end(self) -> None:
        """Kill the groups of all processes, also of those that have ended: they may have left children."""
        for process in self.started:
            process.kill()

    def logs(self) -> list[tuple[str, str]]:
        """(title, text) of every process, for the report of a failed test."""
        return [(f"{p.name} (exit code {p.popen.poll()})", p.text()[-20_000:]) for p in self.started]


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_alive(pid: int) -> bool:
    """Does a process of that id run (zombies do not)?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter: it went while it was read
        return False
