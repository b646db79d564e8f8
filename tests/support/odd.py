"""Handlers that do what handlers should not, and some that are made in odd ways."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from pgfleet_worker import Export, Release, Task, handler


def marks(function: Callable[[Task], Any]) -> Callable[[Task], Any]:
    """A decorator of the application's own, as they are: it calls what it wraps."""

    @wraps(function)
    def wrapper(task: Task) -> Any:
        wrapper.calls += 1  # type: ignore[attr-defined]
        return function(task)

    wrapper.calls = 0  # type: ignore[attr-defined]
    return wrapper


def _fork(task: Task) -> list[int]:
    """Forks once for each way to come out of the call; answers how the forks ended."""
    ended = []
    for way in task.data["ways"]:
        pid = os.fork()
        if pid == 0:
            with Path(task.data["file"]).open("a") as file:
                file.write(f"{way}\n")
            if way == "exit":
                sys.exit(7)
            if way == "raise":
                raise ValueError("of a fork")
            return []
        ended.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    return ended


@handler("forks")
def forks(task: Task) -> list[int]:
    return _fork(task)


@handler("forks_async")
async def forks_async(task: Task) -> list[int]:
    return _fork(task)


@handler("forks_apart", isolation="process")
def forks_apart(task: Task) -> list[int]:
    return _fork(task)


@handler("stops_the_loop")
async def stops_the_loop(task: Task) -> str:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0)
    return "went on"


@marks
@handler("wrapped")
def wrapped(task: Task) -> int:
    return wrapped.calls  # type: ignore[attr-defined, no-any-return]


@marks
@handler("wrapped_async")
async def wrapped_async(task: Task) -> int:
    await asyncio.sleep(0)
    return wrapped_async.calls  # type: ignore[attr-defined, no-any-return]


@handler("comes_back_at_no_time")
def comes_back_at_no_time(task: Task) -> None:
    raise Release("later", seconds=float("nan"))


@handler("exports_nonsense", isolation="process")
def exports_nonsense(task: Task) -> Export:
    return Export("export_x.csv", 1, {1}, 1, "0" * 64)  # type: ignore[arg-type]
