"""Modules with schedules for tests with real workers, each written for its test."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.processes import Process, Processes

#: What every such module begins with: ``mark`` appends a line to a file, and ``gated`` waits until a file is there.
HEAD = """
import os, time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from pgfleet_worker import Fleet, Task, handler, schedule

HERE = Path(__file__).parent
fleet = Fleet()

def mark(word="run"):
    with (HERE / word).open("a") as file:
        file.write(f"{os.getpid()}\\n")

def gate(name="gate"):
    (HERE / f"{name}.begun").touch()
    while not (HERE / name).exists():
        time.sleep(0.005)
"""

#: The three schedules of the manual.
EXAMPLES = """
from pgfleet_worker import Fleet

fleet = Fleet()

def sync_data(): return "synced"
def refresh(): return "refreshed"
def nightly(task): return task.data

fleet.schedule("data-sync").every(hours=1).run(sync_data).retry(3, delay=60).register()
fleet.schedule("cache-refresh").in_memory().every(minutes=5).run(refresh).register()
fleet.schedule("nightly").cron("0 2 * * *", tz="Europe/Stockholm").on_event("library.imported").on_all_nodes().run(nightly).register()
"""  # noqa: E501 - literally as the manual has it


class Scheduled:
    """Workers that load a module of a test's own."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self._processes = processes
        self.folder = folder

    def module(self, source: str, name: str = "scheduled") -> str:
        """Write it; answers its name."""
        (self.folder / f"{name}.py").write_text(HEAD + textwrap.dedent(source))
        return name

    def worker(self, *arguments: str, name: str = "scheduled", env: dict[str, str] | None = None, **kw: Any) -> Process:
        """A worker that has loaded it; returns when it has registered."""
        process = self.start(*arguments, name=name, env=env, **kw)
        process.wait_for_event("worker.registered", timeout=60)
        return process

    def start(self, *arguments: str, name: str = "scheduled", env: dict[str, str] | None = None, **kw: Any) -> Process:
        """The same, without waiting."""
        env = {"PYTHONPATH": str(self.folder), **(env or {})}
        return self._processes.worker("--handlers", name, *arguments, env=env, **kw)

    def marks(self, word: str = "run") -> list[int]:
        """The processes that called ``mark(word)``, a call each."""
        path = self.folder / word
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []

    def begun(self, name: str = "gate") -> Callable[[], bool]:
        """Has something come to that gate?"""
        return (self.folder / f"{name}.begun").exists
