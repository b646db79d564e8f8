"""``pgfleet up`` as a process, and whatever it has started."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.waiting import wait_until

#: Seconds; several times what it takes on two cores with nothing else to do.
PATIENCE = 60.0


class Up:
    """One ``pgfleet up``, its two outputs in files."""

    def __init__(self, folder: Path, logs: Path, *arguments: str, **env: str) -> None:
        self.folder = folder
        self._out, self._err = (logs / f"{len(list(logs.iterdir()))}.{name}" for name in ("out", "err"))
        ours = {name: value for name, value in os.environ.items() if not name.startswith("PGFLEET_")}
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "pgfleet.cli.main", "up", "--dir", str(folder), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**ours, **env},
                start_new_session=True,
            )

    @property
    def out(self) -> str:
        return self._out.read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        return self._err.read_text(encoding="utf-8")

    def ready(self) -> dict[str, Any]:
        """Wait until it serves; answers up.json."""

        def serves() -> bool:
            if self.popen.poll() is not None:
                raise RuntimeError(f"up ended with {self.popen.returncode}:\n{self.err}")
            return "Ctrl-C stops everything." in self.out

        wait_until(serves, PATIENCE, what="up serves")
        up: dict[str, Any] = json.loads((self.folder / "up.json").read_text())
        return up

    def end(self, number: int | None = None) -> int:
        """Send a signal, if any; answers the exit code."""
        if number is not None:
            self.popen.send_signal(number)
        return self.popen.wait(PATIENCE)


def alive(folder: Path, *words: str) -> list[int]:
    """The processes, not counting zombies, that an ``up`` of ``folder`` has started and whose arguments hold ``words``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            arguments = (process / "cmdline").read_bytes().decode(errors="replace")
            environment = (process / "environ").read_bytes().split(b"\0")
            ours = f"PGFLEET_DIR={folder}".encode() in environment or str(folder / "postgres") in arguments
            if ours and arguments and all(word in arguments.split("\0") for word in words):
                found.append(int(process.name))
    return found
