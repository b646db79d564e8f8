"""One process of the fleet, started under a guard, with its log."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pgfleet import guard
from pgfleet.up.errors import UpError

#: Bytes; a longer log is put aside (``.log.1``) at the next start.
LOG_MAX = 10_000_000

#: Seconds it has to end in once its owner is gone, or hurries it.
HURRY = 2.0

#: Lines of its log that tell why a process ended.
TAIL = 20


class Child:
    """``pgfleet ARGUMENTS`` as a process: runs from its making until :meth:`stop`, :meth:`hurry` or our own death."""

    def __init__(
        self, name: str, arguments: Sequence[str], *, env: Mapping[str, str], logs: Path, grace: float, lock: int
    ) -> None:
        """``grace``: seconds from :meth:`stop` to a kill; ``lock``: a descriptor that stays open until it has ended."""
        self.name = name
        self.log = logs / f"{name}.log"
        if self.log.exists() and self.log.stat().st_size > LOG_MAX:
            self.log.replace(self.log.with_name(self.log.name + ".1"))
        argv = [sys.executable, "-m", "pgfleet.cli.main", *arguments]
        log = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._log_start = os.fstat(log).st_size
            self._guard = guard.start(
                argv,
                told=[(signal.SIGTERM, grace)],
                orphaned=[(signal.SIGTERM, HURRY)],
                group=True,  # a server's own children must not keep the port
                stdout=log,
                stderr=log,
                env=dict(env),
                pass_fds=(lock,),
            )
        finally:
            os.close(log)

    def check(self) -> None:
        """Raise :class:`UpError`, with the end of its log, where it has ended."""
        code = self._guard.poll()
        if code is not None:
            how = f"was ended by signal {code - 128}" if code > 128 else f"ended with exit code {code}"
            raise UpError(f"{self.name} {how}.", detail=self.tail(), hint=f"All of its log: {self.log}")

    def tail(self) -> str | None:
        """The last lines that this process has written; None where there are none."""
        return tail(self.log, self._log_start)

    def stop(self) -> None:
        """Ask it to end; does not wait."""
        self._guard.terminate()

    def hurry(self) -> None:
        """Ask it to end within moments; after :meth:`stop` as well."""
        if self._guard.stdin is not None:
            self._guard.stdin.close()

    def wait(self) -> None:
        """Wait for its end, after :meth:`stop` or :meth:`hurry`: the guard sees to it that it comes."""
        self._guard.wait()
        self.hurry()  # closes our end of the pipe


def tail(log: Path, start: int = 0) -> str | None:
    """The last lines of a log, counted from the byte ``start``; None where there are none."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - 20_000))
        text = file.read().decode(errors="replace").strip()
    return "\n".join(text.splitlines()[-TAIL:]) or None
