"""Handlers that do what handlers should not, and some that are made in odd ways."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from pgfleet_worker import Export, GiveUp, Release, Task, handler

socket.setdefaulttimeout(10)  # as applications do, for all that they open later


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


def _speaks(task: Task, file: str) -> None:
    for words in (lambda: task.progress(1, 2), lambda: task.checkpoint("of a fork")):
        try:
            words()
        except RuntimeError as error:
            with Path(file).open("a") as out:
                out.write(f"{error}\n")


def _lets_a_fork_speak(task: Task) -> str:
    fork = multiprocessing.get_context("fork").Process(target=_speaks, args=(task, task.data["file"]))
    fork.start()
    fork.join()
    return "done"


@handler("fork_speaks")
def fork_speaks(task: Task) -> str:
    return _lets_a_fork_speak(task)


@handler("fork_speaks_apart", isolation="process")
def fork_speaks_apart(task: Task) -> str:
    return _lets_a_fork_speak(task)


def _ends_a_fork(task: Task) -> int | None:
    # One that would go on for longer than any test waits.
    fork = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    fork.start()
    fork.terminate()
    fork.join(30)
    return fork.exitcode


@handler("ends_a_fork")
def ends_a_fork(task: Task) -> int | None:
    return _ends_a_fork(task)


@handler("ends_a_fork_apart", isolation="process")
def ends_a_fork_apart(task: Task) -> int | None:
    return _ends_a_fork(task)


class Untellable(Exception):
    """Whatever is asked of it."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("no")

    def __str__(self) -> str:
        raise SystemExit("no")

    __repr__ = __str__


class Busy(Release):
    """With an ``__init__`` that leaves ours out."""

    def __init__(self) -> None:
        self.seconds = 600


class NoBook(GiveUp):
    """The same, and nothing to tell."""

    def __init__(self) -> None:
        self.isbn = "1"

    def __str__(self) -> str:
        raise ValueError("a slip of its author")


RAISED: dict[str, type[Exception]] = {"untellable": Untellable, "busy": Busy, "no_book": NoBook}


@handler("raises_oddly", max_retries=1, retry_delay=0)
def raises_oddly(task: Task) -> None:
    raise RAISED[task.data]()


@handler("uses_a_closed_connection", max_retries=1, retry_delay=0)
def uses_a_closed_connection(task: Task) -> None:
    with task.connect() as conn:
        conn.execute("select 1")
    conn.execute("select 2")


@handler("sleeps_in_postgres", isolation="process")
def sleeps_in_postgres(task: Task) -> None:
    with task.connect() as conn:
        conn.execute("select pg_sleep(600)")


@handler("cancels_itself_and_returns")
async def cancels_itself_and_returns(task: Task) -> str:
    current = asyncio.current_task()
    assert current is not None
    current.cancel()
    return "done"


def _wait_for(gate: str) -> None:
    """Until the test opens it."""
    while not Path(gate).exists():
        time.sleep(0.005)


@handler("takes_the_loops_threads")
async def takes_the_loops_threads(task: Task) -> None:
    await asyncio.gather(*(asyncio.to_thread(_wait_for, task.data["gate"]) for _ in range(64)))


@handler("saves_async")
async def saves_async(task: Task) -> None:
    await task.checkpoint_async("half-way")


@handler("moves_away")
def moves_away(task: Task) -> None:
    os.chdir("/")


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


@marks
@handler("wrapped_and_long", timeout=0.2)
async def wrapped_and_long(task: Task) -> None:
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        Path(task.data["file"]).write_text("cancelled")
        raise


@handler("comes_back_at_no_time")
def comes_back_at_no_time(task: Task) -> None:
    raise Release("later", seconds=float("nan"))


@handler("exports_nonsense", isolation="process")
def exports_nonsense(task: Task) -> Export:
    return Export("export_x.csv", 1, {1}, 1, "0" * 64)  # type: ignore[arg-type]
