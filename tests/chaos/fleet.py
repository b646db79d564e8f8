"""The soak's workers: real processes, each behind a proxy of its own, replaced when they die."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgfleet.settings import Settings
from tests.chaos.stage import Stage
from tests.support.database import environment
from tests.support.proxy import Proxy

ROOT = Path(__file__).parents[2]
#: What a worker's exit may be by itself: the poison handler's.
POISONED = 66


@dataclass
class Process:
    """One worker process, from its start to its end; times are those of the wall clock."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path
    started: float = field(default_factory=time.time)
    told: float | None = None  # SIGTERM
    killed: float | None = None
    whole: bool = False  # were its children killed with it, its keeper among them?
    drained: bool = False  # was it told to drain?
    ended: float | None = None

    def events(self, *names: str) -> list[dict[str, Any]]:
        """Its log's events of these names."""
        found = []
        with self.log.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if any(name in line for name in names):
                    try:
                        event = json.loads(line)
                    except ValueError:
                        continue
                    if event.get("event") in names:
                        found.append(event)
        return found

    def workers(self) -> list[str]:
        """The ids it registered under, in order: a worker that was declared lost takes a new one."""
        return [str(event["worker"]) for event in self.events("worker.registered")]

    def send(self, number: int, *, whole: bool = False) -> None:
        """To the process alone, whose children must see to their own end; or ``whole``, as when its server dies."""
        if whole:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.popen.pid, number)
        else:
            self.popen.send_signal(number)

    def children(self) -> list[int]:
        """The processes that it has started and that still run."""
        try:
            return [
                int(pid) for pid in Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children").read_text().split()
            ]
        except OSError:
            return []


@dataclass
class Slot:
    """One of the fleet's places: its proxy, and the process that stands there now."""

    name: str
    proxy: Proxy
    process: Process | None = None
    count: int = 0
    #: Does a mishap of the link, or of the process, go on here? Then it gets no other.
    link_busy: bool = False
    process_busy: bool = False


class Fleet:
    """``size`` workers; :meth:`look` notices the ends of processes and tells which nobody asked for."""

    def __init__(self, stage: Stage, size: int, run: str, settings: dict[str, Any]) -> None:
        self._stage = stage
        self._run = run
        self._given = settings
        self.slots = [Slot(f"w{n}", Proxy.before(stage.url)) for n in range(1, size + 1)]
        self.all: list[Process] = []
        self.unasked: list[str] = []
        self.poisoned = self.drained = 0

    def start(self, slot: Slot) -> Process:
        """A new process in ``slot``."""
        slot.count += 1
        name = f"{slot.name}-{slot.count:04d}"
        settings = Settings(
            database_url=slot.proxy.url(self._stage.url), export_dir=self._stage.export_dir, node=f"node-{slot.name}",
            nickname=slot.name, log_format="json", handlers=("tests.chaos.handlers",), **self._given,
        )  # fmt: skip
        extra = {"SOAK_RUN": self._run, "SOAK_PROCESS": name, "SOAK_LEDGER": str(self._stage.ledger)}
        log = self._stage.logs / f"{name}.log"
        with log.open("wb") as file:
            popen = subprocess.Popen(
                [sys.executable, "-m", "pgfleet.cli.main", "worker"],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
                env={**environment(settings), **extra},
            )  # fmt: skip
        slot.process = Process(name, popen, log)
        self.all.append(slot.process)
        return slot.process

    def look(self) -> list[Slot]:
        """The slots whose process has ended since the last look."""
        empty = []
        for slot in self.slots:
            process = slot.process
            if process is None or (code := process.popen.poll()) is None:
                continue
            process.ended = time.time()
            slot.process = None
            empty.append(slot)
            if code == POISONED:
                self.poisoned += 1
            elif process.drained and code == 0:
                self.drained += 1
            elif process.killed is None and process.told is None:
                self.unasked.append(f"{process.name} ended by itself with {code}")
            elif process.told is not None and process.killed is None and code not in (0, 1):
                self.unasked.append(f"{process.name} was told to stop and ended with {code}")
        return empty

    def registered(self) -> list[Slot]:
        """The slots whose process runs, has registered, and suffers no mishap."""
        return [
            slot for slot in self.slots
            if slot.process and not slot.process_busy and slot.process.events("worker.registered")
        ]  # fmt: skip

    def end(self, timeout: float) -> list[str]:
        """SIGTERM for all; answers what was wrong with their ends. ``timeout`` in seconds, for all together."""
        wrong = []
        running = [slot.process for slot in self.slots if slot.process]
        for process in running:
            process.told = time.time()
            process.send(signal.SIGTERM)
        deadline = time.monotonic() + timeout
        for process in running:
            try:
                code = process.popen.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                wrong.append(f"{process.name} did not end within {timeout:g} s of SIGTERM")
                process.popen.kill()
                process.popen.wait()
                continue
            process.ended = time.time()
            if code != 0:
                wrong.append(f"{process.name} ended with {code} on SIGTERM with nothing in its way")
        return wrong

    def leftovers(self) -> dict[int, str]:
        """Processes of this run, workers and all that they have started, that are there: pid -> its name."""
        mark = f"SOAK_RUN={self._run}".encode()
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                status = (folder / "status").read_text()
                if "State:\tZ" not in status and mark in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = status.split("\n", 1)[0].removeprefix("Name:\t")
            except OSError:
                continue
        return found

    def close(self) -> None:
        """Kill what is left, and the proxies."""
        for process in self.all:
            if process.popen.poll() is None:
                process.popen.kill()
                process.popen.wait()
        for pid in self.leftovers():
            os.kill(pid, signal.SIGKILL)
        for slot in self.slots:
            slot.proxy.close()
