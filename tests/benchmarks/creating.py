"""Runs ``load.py`` in a few processes at once."""

from __future__ import annotations

from tests.benchmarks.processes import children, module
from tests.benchmarks.server import Database


def rate(database: Database, way: str, *, clients: int = 32, seconds: float = 5.0, processes: int = 2) -> float:
    """Transactions per second that ``clients`` connections make, spread over ``processes``; see ``load.WAYS``."""
    line = module("tests.benchmarks.load", database.url, way, clients // processes)
    with children([line] * processes, talks=True) as started:
        for child in started:
            child.line()
        for child in started:
            child.tell(str(seconds))
        answers = [child.answer() for child in started]
    return float(sum(answer["n"] / answer["seconds"] for answer in answers))
