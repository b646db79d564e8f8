"""Handlers for the tests: each does one thing that a worker must cope with. Gates are files, so that any process opens them.

A task's data may be ``{"gate": PATH}``: the handler writes PATH.begun and goes on once PATH exists.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pgfleet.errors import DatabaseAway
from pgfleet_worker import GiveUp, RetryLater, Task, handler


def _pass(task: Task) -> None:
    gate = Path(task.data["gate"])
    Path(f"{gate}.begun").touch()
    while not gate.exists() and not (task.cancelled and task.data.get("heeds")):
        time.sleep(0.005)
    if task.cancelled and task.data.get("heeds"):
        raise RuntimeError("told to stop")


@handler("echo")
def echo(task: Task) -> Any:
    """Gives back its data."""
    return {"data": task.data, "attempt": task.attempt, "created_by": task.created_by}


@handler("echo_async")
async def echo_async(task: Task) -> Any:
    """Gives back its data, from the event loop."""
    await asyncio.sleep(0)
    return {"data": task.data, "attempt": task.attempt}


@handler("gated")
def gated(task: Task) -> Any:
    """Waits at its gate."""
    _pass(task)
    return {"attempt": task.attempt}


@handler("gated_async")
async def gated_async(task: Task) -> Any:
    """Waits at its gate, on the event loop, until cancelled."""
    gate = Path(task.data["gate"])
    Path(f"{gate}.begun").touch()
    while not gate.exists():
        await asyncio.sleep(0.005)
    return {"attempt": task.attempt}


@handler("blocks_async")
async def blocks_async(task: Task) -> None:
    """Nothing, but with a gate: waits at it and lets nothing else on the event loop go on meanwhile. At the gate ``then`` it
    waits as it should."""
    if task.data and "gate" in task.data:
        _pass(task)
    if task.data and "then" in task.data:
        while not Path(task.data["then"]).exists():
            await asyncio.sleep(0.005)


@handler("steps_async")
async def steps_async(task: Task) -> None:
    """Goes on in steps of 2 ms until its gate is open: with many such, each comes to its next step late."""
    while not Path(task.data["gate"]).exists():
        time.sleep(0.002)  # a step, as long as a handler that computes takes
        await asyncio.sleep(0)


@handler("exits_within_async")
async def exits_within_async(task: Task) -> None:
    """A task of its own raises SystemExit."""

    async def leave() -> None:
        raise SystemExit(3)

    await asyncio.gather(leave())


@handler("gated_failure")
def gated_failure(task: Task) -> None:
    """Waits at its gate, and fails."""
    _pass(task)
    raise ValueError("It went wrong behind the gate.")


@handler("boom")
def boom(task: Task) -> None:
    """Raises an exception whose text is no reader's business."""
    raise ValueError(f"secret of {task.data}\0\ud800")


@handler("exits")
def exits(task: Task) -> None:
    """Raises SystemExit."""
    raise SystemExit(3)


@handler("gives_up", max_retries=5)
def gives_up(task: Task) -> None:
    """Knows that no retry can help."""
    raise GiveUp("The ISBN 123 does not exist.")


@handler("again_soon", max_retries=5, retry_delay=3600)
def again_soon(task: Task) -> Any:
    """Fails twice, asking for another go at once."""
    if task.attempt < 3:
        raise RetryLater("The server is busy.", seconds=0.05)
    return {"attempt": task.attempt}


@handler("unsayable")
def unsayable(task: Task) -> Any:
    """Returns what JSON can't say."""
    return {1, 2}


@handler("marks")
def marks(task: Task) -> None:
    """Appends its id to the file named in its data: a line for every run."""
    line = f"{task.id} {task.attempt} {os.getpid()}\n".encode()
    fd = os.open(task.data["file"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(fd, line)
    finally:
        os.close(fd)


@handler("asks")
def asks(task: Task) -> Any:
    """Uses a connection of its own."""
    with task.connect() as conn:
        row = conn.execute("select count(*), current_setting('search_path') from tasks").fetchone()
    return {"tasks": row[0] if row else None, "search_path": row[1] if row else None}


@handler("mostly_short")
def mostly_short(task: Task) -> None:
    """Nothing, but for the task that has a gate."""
    if task.data and "gate" in task.data:
        _pass(task)


@handler("odd_error")
def odd_error(task: Task) -> None:
    """Raises an error of ours with something that is no text."""
    raise GiveUp(ValueError("x"))  # type: ignore[arg-type]


@handler("odd_delay")
def odd_delay(task: Task) -> None:
    """Hands on a Retry-After header as it came."""
    raise RetryLater("busy", seconds="soon")  # type: ignore[arg-type]


@handler("huge")
def huge(task: Task) -> Any:
    """Returns more than a row should hold."""
    return "x" * (17 * 1024 * 1024)


@handler("deep")
def deep(task: Task) -> Any:
    """Returns what JSON can't nest."""
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


@handler("away_once")
def away_once(task: Task) -> None:
    """Finds Postgres away at its first attempt."""
    if task.attempt == 1:
        raise DatabaseAway("The database is away.", detail="connection to 10.0.0.7 refused")


@handler("echo_slowly")
def echo_slowly(task: Task) -> None:
    """Takes 20 ms."""
    time.sleep(0.02)


@handler("lasts")
def lasts(task: Task) -> None:
    """Takes a tenth of a second: its work, and too long to be claimed ahead of its turn."""
    time.sleep(0.1)


@handler("raises_much")
def raises_much(task: Task) -> None:
    """Raises the ends of a long text, for the reader or for operators."""
    text = f"<{'é' * 2_000_000}>"
    raise GiveUp(text) if task.data["for"] == "reader" else ValueError(text)


@handler("hogs")
def hogs(task: Task) -> None:
    """Holds the interpreter's lock for so many seconds, as C code does: no other thread runs meanwhile."""
    Path(f"{task.data['gate']}.begun").touch()
    ctypes.PyDLL(None).usleep(round(task.data["seconds"] * 1_000_000))


@handler("outlives", isolation="process")
def outlives(task: Task) -> None:
    """Leaves a thread behind, which reports once the gate is open: in the process's next task. That is of this type too."""
    gate = Path(task.data["gate"])
    done = Path(f"{gate}.done")

    def linger() -> None:
        while not gate.exists():
            time.sleep(0.005)
        try:
            task.progress(1, 2, "stale")
            task.checkpoint("stale")
        finally:
            done.touch()

    if not task.data.get("next"):
        threading.Thread(target=linger, daemon=True).start()
        return
    gate.touch()
    while not done.exists():
        time.sleep(0.005)
    raise GiveUp("Its checkpoint stays in the row.")


@handler("garbles", isolation="process")
def garbles(task: Task) -> int:
    """Writes to the wire where its data says so, as a library might that closes what it hasn't opened."""
    if task.data:
        os.write(int(sys.argv[1]), b"\0\0\0\2{]")
    return task.id
