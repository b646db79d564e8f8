"""What a worker and its child processes say to each other: JSON, each message after its length in four bytes.

No pickle: all that goes over is JSON by nature, and a broken child can't make the worker run anything.
"""

from __future__ import annotations

import dataclasses
import json
import socket
import struct
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from pgfleet.settings import Settings
from pgfleet_worker.outcome import Export, Failure, Outcome, Published, Released, Success
from pgfleet_worker.task import Task

_LENGTH = struct.Struct("!I")

Message = dict[str, Any]


class Wire:
    """One end of a socket pair. ``wait()`` is called before each read that may block; False: nothing will come any more."""

    def __init__(self, end: socket.socket, wait: Callable[[], bool] = lambda: True) -> None:
        self._end = end
        self._wait = wait
        self._buffer = bytearray()

    def send(self, message: Message) -> None:
        """Raises ``OSError`` where the other end is gone."""
        body = json.dumps(message).encode()
        self._end.sendall(_LENGTH.pack(len(body)) + body)

    def receive(self) -> Message | None:
        """The next message; None where the other end is gone."""
        head = self._take(_LENGTH.size)
        body = head and self._take(_LENGTH.unpack(head)[0])
        if not body:
            return None
        message: Message = json.loads(body)
        return message

    def _take(self, size: int) -> bytes | None:
        while len(self._buffer) < size:
            try:
                got = self._end.recv(max(65_536, size - len(self._buffer))) if self._wait() else b""
            except OSError:
                return None
            if not got:
                return None
            self._buffer += got
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def close(self) -> None:
        """Close this end."""
        self._end.close()


def pack_settings(settings: Settings) -> Message:
    """``settings`` as JSON can say them."""
    return {name: str(v) if isinstance(v, Path) else v for name, v in vars(settings).items()}


def unpack_settings(message: Message) -> Settings:
    """The settings that were packed."""
    kinds = {field.name: type(getattr(Settings(), field.name)) for field in dataclasses.fields(Settings)}
    as_was = {Path: Path, type(Path()): Path, tuple: tuple}
    return Settings(**{name: as_was.get(kinds[name], lambda v: v)(value) for name, value in message.items()})


def pack(outcome: Outcome) -> Message:
    """An outcome without its fence, which the worker knows."""
    match outcome:
        case Success(result=result):
            return {"success": result}
        case Published(export=export):
            return {"published": vars(export)}
        case Failure():
            retry_in = None if outcome.retry_in is None else outcome.retry_in.total_seconds()
            return {"failure": [outcome.error, outcome.detail, outcome.give_up, retry_in]}
        case Released():
            return {"released": [outcome.delay, outcome.reason]}
        case _:
            raise TypeError("only a worker says that a task was called off")


def unpack(task: Task, message: Message, cpu: float | None, peak: int | None) -> Outcome:
    """The outcome of ``task`` that a child has packed."""
    fence = task.id, task.attempt, task.worker, task.type
    match message:
        case {"success": result}:
            return Success(*fence, result, cpu, peak)
        case {"published": export}:
            return Published(*fence, Export(**export), cpu, peak)
        case {"failure": [error, detail, give_up, retry_in]}:
            pause = None if retry_in is None else timedelta(seconds=retry_in)
            return Failure(*fence, error, detail, give_up, pause, cpu, peak)
        case {"released": [delay, reason]}:
            return Released(*fence, delay, reason)
        case _:
            raise ValueError(f"a child process said what it should not: {message!r}")
