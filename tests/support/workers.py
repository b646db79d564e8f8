"""Real workers with the tests' handlers, and what can be asked of them from outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.processes import Process, Processes

HANDLERS = ("--handlers", "tests.support.handlers")
ATTEMPTS = ("--handlers", "tests.support.attempts")


def worker(processes: Processes, *arguments: str, handlers: tuple[str, ...] = HANDLERS, **kw: Any) -> Process:
    """A worker with the handlers of ``tests/support/handlers.py``; returns when it has registered."""
    process = processes.worker(*handlers, *arguments, **kw)
    process.wait_for_event("worker.registered")
    return process


def attempting(processes: Processes, *arguments: str, **kw: Any) -> Process:
    """A worker with the handlers of ``tests/support/attempts.py``; returns when it has registered."""
    return worker(processes, *arguments, handlers=ATTEMPTS, **kw)


def id_of(process: Process) -> str:
    """The id it has registered under, last."""
    return str(process.events("worker.registered")[-1]["worker"])


def sleeping(conn: Any) -> Callable[[], bool]:
    """Do all workers say that they have nothing to do?"""
    return lambda: conn.execute("select bool_and(sleeping) from workers").fetchone() == (True,)
