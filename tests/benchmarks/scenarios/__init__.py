"""The scenarios: one module each, whose ``run(bench)`` answers a ``Result``. Its docstring says what and why."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from tests.benchmarks.harness import Bench, Result

#: In this order: the first three work off copies of the same backlogs, and ``listeners`` restarts Postgres, which forgets them.
NAMES = (
    "drain", "held", "cost", "steady", "latency", "create", "http", "depth", "listeners", "memory", "export", "firing",
)  # fmt: skip


def find(name: str) -> Callable[[Bench], Result]:
    """The scenario's function."""
    run: Callable[[Bench], Result] = importlib.import_module(f"{__name__}.{name}").run
    return run


def about(name: str) -> str:
    """What the scenario measures: its module's docstring."""
    return (importlib.import_module(f"{__name__}.{name}").__doc__ or "").strip()
