"""The soak's handlers. Each run leaves lines in a ledger of its own, which knows nothing of pgfleet's records.

A line: ``WHAT TASK ATTEMPT PROCESS WORD``. The word of ``began`` and ``done`` is a nonce, which is the task's result as
well, so that a row of status ``success`` can be traced to the very run that it says it was. That of ``from`` and ``saved`` is
a step: where the run began, and which its checkpoint was durable for.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import random
import secrets
import signal
import time
from typing import Any

from pgfleet_worker import Cancelled, GiveUp, Release, RetryLater, Task, handler

#: The soak_limited tasks that may run at once; the steps of a task that saves.
LIMIT = 3
STEPS = 8
#: Sent to a worker, it writes the stack of each of its threads to its log: see stuck.py.
DUMP = signal.SIGUSR1

PROCESS = os.environ.get("SOAK_PROCESS", "?")
if PROCESS != "?":
    faulthandler.register(DUMP, all_threads=True)


def _note(what: str, task: Task, word: str | int) -> None:
    # One write of a short line to a file opened for appending: whole or not at all, also when we are killed.
    fd = os.open(os.environ["SOAK_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{what} {task.id} {task.attempt} {PROCESS} {word}\n".encode())
    finally:
        os.close(fd)


def _began(task: Task) -> str:
    nonce = secrets.token_hex(6)
    _note("began", task, nonce)
    return nonce


def _done(task: Task, nonce: str) -> dict[str, Any]:
    _note("done", task, nonce)
    return {"nonce": nonce, "process": PROCESS}


@handler("soak_noop")
def noop(task: Task) -> Any:
    """Nothing at all."""
    return _done(task, _began(task))


@handler("soak_nap")
def nap(task: Task) -> Any:
    """Sleeps for ``seconds``, whatever happens."""
    nonce = _began(task)
    time.sleep(task.data["seconds"])
    return _done(task, nonce)


@handler("soak_nap_async")
async def nap_async(task: Task) -> Any:
    """Sleeps on the event loop."""
    nonce = _began(task)
    await asyncio.sleep(task.data["seconds"])
    return _done(task, nonce)


@handler("soak_event")
def event(task: Task) -> Any:
    """Tells of which event it is."""
    nonce = _began(task)
    return {**_done(task, nonce), "serial": task.data["event"]["payload"]["serial"]}


@handler("soak_flaky", max_retries=3, retry_delay=0.3)
def flaky(task: Task) -> Any:
    """Fails in its first ``fails`` attempts, never more often than it may be retried; or has itself released."""
    nonce = _began(task)
    if task.attempt <= task.data["fails"]:
        match task.id % 3:
            case 0:
                raise RetryLater("Not yet.", seconds=0.2)
            case 1:
                raise RuntimeError("not yet")
            case _:
                raise Release("Not now.", seconds=0.2)
    return _done(task, nonce)


@handler("soak_doomed", max_retries=2, retry_delay=0.2)
def doomed(task: Task) -> Any:
    """Always fails: for good at once, or as often as it may be retried."""
    _began(task)
    if task.data["at_once"]:
        raise GiveUp("It can't be done.")
    raise RuntimeError("it can't be done")


@handler("soak_heeding")
def heeding(task: Task) -> Any:
    """Works for ``seconds``, and ends when asked to."""
    nonce = _began(task)
    _work(task, task.data["seconds"])
    return _done(task, nonce)


@handler("soak_timed", timeout=0.8)
def timed(task: Task) -> Any:
    """Would go on for ever, but for its timeout."""
    _began(task)
    _work(task, float("inf"))


@handler("soak_deaf", timeout=0.5)
def deaf(task: Task) -> Any:
    """Heeds nothing, and is abandoned by its worker."""
    nonce = _began(task)
    time.sleep(3)
    return _done(task, nonce)


@handler("soak_limited", max_running=LIMIT)
def limited(task: Task) -> Any:
    """Never more than LIMIT at once, over the whole fleet."""
    return nap(task)


@handler("soak_child", isolation="process", max_retries=3, retry_delay=0.2)
def child(task: Task) -> Any:
    """In a process of its own, which it ends from within in the first ``dies`` attempts."""
    nonce = _began(task)
    if task.attempt <= task.data["dies"]:
        os.kill(os.getpid(), signal.SIGSEGV) if task.attempt % 2 else os._exit(3)
    time.sleep(0.02)
    return _done(task, nonce)


@handler("soak_stubborn", isolation="process", timeout=0.8)
def stubborn(task: Task) -> Any:
    """Will not end before it is killed."""
    _began(task)
    while True:
        with contextlib.suppress(Cancelled):
            time.sleep(60)


@handler("soak_steps", max_retries=8, retry_delay=0.1)
def steps(task: Task) -> Any:
    """Saves after each of its steps, and goes on from there; now and then a step fails."""
    nonce = _began(task)
    for step in range(_first(task), STEPS):
        time.sleep(0.05)
        _step(task, step)
        task.checkpoint({"next": step + 1})
        _note("saved", task, step + 1)
    return _done(task, nonce)


@handler("soak_steps_child", isolation="process", max_retries=8, retry_delay=0.1)
def steps_child(task: Task) -> Any:
    """The same in a process of its own."""
    return steps(task)


@handler("soak_steps_async", max_retries=8, retry_delay=0.1)
async def steps_async(task: Task) -> Any:
    """The same on the event loop."""
    nonce = _began(task)
    for step in range(_first(task), STEPS):
        await asyncio.sleep(0.05)
        _step(task, step)
        await task.checkpoint_async({"next": step + 1})
        _note("saved", task, step + 1)
    return _done(task, nonce)


def _first(task: Task) -> int:
    first = task.saved["next"] if task.saved else 0
    _note("from", task, first)
    return int(first)


def _step(task: Task, step: int) -> None:
    if random.random() < 0.03:
        raise RuntimeError("a step went wrong")
    task.progress(step + 1, STEPS, "Stepping")


def _work(task: Task, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.02)
        if task.cancelled:
            raise RuntimeError("told to end")


@handler("soak_poison")
def poison(task: Task) -> Any:
    """Takes its worker with it."""
    _began(task)
    os._exit(66)
