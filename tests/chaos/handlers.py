"""The soak's handlers. Each run leaves lines in a ledger of its own, which knows nothing of pgfleet's records.

A line: ``began|done TASK ATTEMPT PROCESS NONCE``. The nonce is the task's result as well, so that a row of status
``success`` can be traced to the very run that it says it was.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from typing import Any

from pgfleet_worker import GiveUp, RetryLater, Task, handler

PROCESS = os.environ.get("SOAK_PROCESS", "?")


def _note(what: str, task: Task, nonce: str) -> None:
    # One write of a short line to a file opened for appending: whole or not at all, also when we are killed.
    fd = os.open(os.environ["SOAK_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{what} {task.id} {task.attempt} {PROCESS} {nonce}\n".encode())
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


@handler("soak_flaky", max_retries=3, retry_delay=0.3)
def flaky(task: Task) -> Any:
    """Fails in its first ``fails`` attempts; never more often than it may be retried."""
    nonce = _began(task)
    if task.attempt <= task.data["fails"]:
        if task.attempt % 2:
            raise RetryLater("Not yet.", seconds=0.2)
        raise RuntimeError("not yet")
    return _done(task, nonce)


@handler("soak_doomed", max_retries=2, retry_delay=0.2)
def doomed(task: Task) -> Any:
    """Always fails: for good at once, or as often as it may be retried."""
    _began(task)
    if task.data["at_once"]:
        raise GiveUp("It can't be done.")
    raise RuntimeError("it can't be done")


@handler("soak_poison")
def poison(task: Task) -> Any:
    """Takes its worker with it."""
    _began(task)
    os._exit(66)
