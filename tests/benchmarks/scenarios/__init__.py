"""The scenarios: one module each, whose ``run(bench)`` answers a ``Result``. Its docstring says what and why."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from tests.benchmarks.harness import Bench, Result

NAMES = (
    "drain", "held", "steady", "latency", "create", "http", "depth", "listeners", "memory", "cost", "export", "firing",
)  # fmt: skip


def find(name: str) -> Callable[[Bench], Result]:
    """The scenario's function."""
    run: Callable[[Bench], Result] = importlib.import_module(f"{__name__}.{name}").run
    return run


def about(name: str) -> str:
    """What the scenario measures: its module's docstring."""
    return (importlib.import_module(f"{__name__}.{name}").__doc__ or "").strip()
