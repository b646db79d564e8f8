"""Handlers for the tests of single attempts: what is called off, takes too long, goes on from a checkpoint, or dies.

A task's data may be ``{"gate": PATH}``: the handler writes PATH.begun and goes on once PATH exists.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pgfleet_worker import Cancelled, GiveUp, Release, RetryLater, Task, handler


def begin(task: Task, word: str = "") -> Path:
    """Say that the task has begun; answers its gate."""
    gate = Path(task.data["gate"])
    Path(f"{gate}.begun").write_text(word)
    return gate


@handler("heeds", timeout=600)
def heeds(task: Task) -> str:
    """Ends by raising when it is called off."""
    gate = begin(task)
    while not gate.exists():
        if task.cancelled:
            raise RuntimeError("called off")
        time.sleep(0.005)
    return "done"


@handler("reports")
def reports(task: Task) -> str:
    """Reports until its gate opens, or until that raises."""
    gate = begin(task)
    while not gate.exists():
        task.progress(1, 4, "waiting")
        time.sleep(0.005)
    return "done"


@handler("finishes")
def finishes(task: Task) -> str:
    """Finishes although it was called off."""
    begin(task)
    while not task.cancelled:
        time.sleep(0.005)
    return "done nonetheless"


@handler("ignores")
def ignores(task: Task) -> str:
    """Sees nothing but its gate."""
    gate = begin(task)
    while not gate.exists():
        time.sleep(0.005)
    Path(f"{gate}.passed").touch()
    return "done"


@handler("ignores_async")
async def ignores_async(task: Task) -> str:
    """A coroutine that swallows its cancellation."""
    gate = begin(task)
    while not gate.exists():
        try:
            await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            Path(f"{gate}.cancelled").touch()
    return "done"


@handler("cleans_up_async")
async def cleans_up_async(task: Task) -> None:
    """A coroutine that takes its time to clean up."""
    gate = begin(task)
    try:
        await asyncio.sleep(600)
    finally:
        await asyncio.sleep(0.05)
        Path(f"{gate}.cleaned").touch()


@handler("hurried", timeout=0.2)
def hurried(task: Task) -> None:
    """Has 0.2 s and heeds them."""
    while not task.cancelled:
        time.sleep(0.005)
    raise RuntimeError("called off")


@handler("not_now")
def not_now(task: Task) -> int:
    """Lets its first attempt go back."""
    if task.attempt == 1:
        raise Release("The tide is out.", seconds=0.05)
    return task.attempt


@handler("steps")
def steps(task: Task) -> dict[str, Any]:
    """Four steps, each a line "ATTEMPT STEP" in its data's file and a checkpoint; waits at the gate after the second."""
    first = task.saved["next"] if task.saved else 0
    for step in range(first, 4):
        if step == 2 and "gate" in task.data:
            gate = begin(task)
            while not gate.exists():
                time.sleep(0.005)
        with Path(task.data["file"]).open("a") as file:
            file.write(f"{task.attempt} {step}\n")
        task.checkpoint({"next": step + 1})
    return {"began_at": first}


@handler("steps_async")
async def steps_async(task: Task) -> Any:
    """Saves, fails, and goes on from what it saved."""
    if task.saved is None:
        await task.checkpoint_async({"half": "way"})
        raise RetryLater("half way", seconds=0)
    return task.saved


@handler("saves_too_much")
def saves_too_much(task: Task) -> Any:
    """Tries checkpoints that can't be, and one that can."""
    refused = []
    for value in (float("nan"), {1, 2}, "x" * (17 * 1024 * 1024)):
        try:
            task.checkpoint(value)
        except (TypeError, ValueError) as error:
            refused.append(type(error).__name__)
    task.checkpoint({"odd": "\0\ud800"})
    return refused


@handler("saves_when_stopped")
def saves_when_stopped(task: Task) -> Any:
    """Saves what it has when it is called off."""
    if task.saved:
        return task.saved
    begin(task)
    while not task.cancelled:
        time.sleep(0.005)
    task.checkpoint("what there was")
    raise AssertionError("a checkpoint of what was called off must raise")


@handler("burns")
def burns(task: Task) -> None:
    """Uses a tenth of a second of processor, and sleeps as long."""
    end = time.thread_time() + 0.1
    while time.thread_time() < end:
        pass
    time.sleep(0.1)


# -- in processes of their own


@handler("in_process", isolation="process", tasks_per_process=3)
def in_process(task: Task) -> dict[str, Any]:
    """Tells where it ran and what it saw."""
    return {"pid": os.getpid(), "parent": os.getppid(), "data": task.data, "attempt": task.attempt}


@handler("dies", isolation="process")
def dies(task: Task) -> Any:
    """Ends its process in the way its data says."""
    match task.data:
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "system_exit":
            sys.exit(4)
        case "give_up":
            raise GiveUp("There is no such book.")
        case "unsayable":
            return {1, 2}
        case "noise":
            print("said on stdout")
            print("said on stderr", file=sys.stderr)
    return os.getpid()


@handler("gated_process", isolation="process")
def gated_process(task: Task) -> str:
    """Waits at its gate, in the midst of a system call; cleans up when it is called off."""
    gate = begin(task, f"{os.getpid()}")
    try:
        while not gate.exists():
            time.sleep(0.01 if task.data.get("busy") else 5)
    except Cancelled:
        Path(f"{gate}.cancelled").touch()
        raise
    return "done"


@handler("stubborn_process", isolation="process", timeout=600)
def stubborn_process(task: Task) -> str:
    """Ignores SIGTERM, and has started a process that does, too."""
    other = subprocess.Popen(["sleep", "600"])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    gate = begin(task, f"{os.getpid()} {other.pid}")
    while not gate.exists():
        time.sleep(0.01)
    other.kill()
    return "done"


@handler("steps_process", isolation="process")
def steps_process(task: Task) -> Any:
    """:func:`steps`, in a process, with progress."""
    first = task.saved["next"] if task.saved else 0
    for step in range(first, 4):
        task.progress(step, 4, f"step {step}")
        if step == 2 and task.attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        task.checkpoint({"next": step + 1})
    return {"began_at": first}


@handler("eats", isolation="process")
def eats(task: Task) -> int:
    """Holds so many MiB for a moment, and burns a tenth of a second of processor."""
    held = bytearray(task.data * 1024 * 1024)
    held[::4096] = b"x" * len(held[::4096])
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    return len(held)


def _burst(task: Task) -> None:
    for n in range(50):
        task.progress(n, 100, "quick")
    task.progress(50, 100, "half")
    while not Path(task.data["gate"]).exists():
        time.sleep(0.005)


@handler("bursts")
def bursts(task: Task) -> None:
    """Reports in a burst, then says nothing more until its gate opens."""
    _burst(task)


@handler("bursts_process", isolation="process")
def bursts_process(task: Task) -> None:
    """:func:`bursts`, in a process."""
    _burst(task)


def _odd_report(task: Task) -> list[str]:
    refused = []
    for done in (float("nan"), "much"):
        try:
            task.progress(done, 4)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            refused.append(type(error).__name__)
    task.progress(1, 4, ["\0\ud800", 5])  # type: ignore[arg-type]
    task.progress(4, 4, "x" * 100_000)
    time.sleep(0.3)
    return refused


@handler("odd_report")
def odd_report(task: Task) -> list[str]:
    """Reports what is no number, and steps that are no short texts."""
    return _odd_report(task)


@handler("odd_report_process", isolation="process")
def odd_report_process(task: Task) -> list[str]:
    """:func:`odd_report`, in a process."""
    return _odd_report(task)


@handler("goes_on_reporting")
def goes_on_reporting(task: Task) -> str:
    """Saves and fails; then reports once that nine tenths are done, and waits."""
    if task.saved is None:
        task.checkpoint(90)
        raise RetryLater("half way", seconds=0)
    task.progress(task.saved, 100, "going on")
    gate = begin(task)
    while not gate.exists():
        time.sleep(0.005)
    return "done"


@handler("leaves_a_thread")
def leaves_a_thread(task: Task) -> str:
    """Starts a thread that raises, and ends after it."""

    def raises() -> None:
        raise ValueError("nobody catches this")

    thread = threading.Thread(target=raises, name="left")
    thread.start()
    thread.join()
    return "done"
