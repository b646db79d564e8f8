"""``POST /v1/tasks`` with 16 clients, against an empty authenticated JSON endpoint on the same server (``http.py``)."""

from __future__ import annotations

import importlib
from typing import Any

from tests.benchmarks.harness import PGFLEET, Bench, Result

EMPTY = "an empty endpoint"


def run(bench: Bench) -> Result:
    result = Result()
    rows(result, measure(bench, clients=16))
    rates = {PGFLEET: [result.detail["16"]["tasks_per_second"]], EMPTY: [result.detail["16"]["empty_per_second"]]}
    result.bars("16 clients", "requests/s", rates)
    return result


def measure(bench: Bench, *, clients: int) -> dict[str, Any]:
    """What ``http.run`` answers, on a database of its own."""
    with bench.server.database() as database:
        # By name: this module is called http as well.
        load = importlib.import_module("tests.benchmarks.http").run
        rounds = bench.rounds()
        answer: dict[str, Any] = load(database.url, clients=clients, seconds=1 if bench.quick else 5, rounds=rounds)
    return answer


def rows(result: Result, answer: dict[str, Any]) -> None:
    """The answer as rows; its figures are medians of rounds already."""
    clients = answer["clients"]
    result.detail[str(clients)] = answer
    metric = f"HTTP, {clients} clients"
    for who, which in ((PGFLEET, "tasks"), (EMPTY, "empty")):
        result.add(who, metric, answer[f"{which}_per_second"], "requests/s")
        result.add(who, f"{metric}, p50", answer[f"{which}_p50_ms"], "ms")
        result.add(who, f"{metric}, p99", answer[f"{which}_p99_ms"], "ms")
    goal = float(answer["goal"])
    share = f"{metric}: of the empty endpoint's rate"
    result.add(PGFLEET, share, answer["ratio"], "×", target=f"≥ {goal}", reached=lambda v: v >= goal)
