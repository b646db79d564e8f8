"""What was measured, as JSON: ``results.json`` beside the plots, which ``--add`` starts from.

    {"runs": [...], "peers": {...}, "scenarios": {"drain": {"run": 0, "rows": [...], ...}}}

Each scenario says which of ``runs`` measured it; a run says when, by which command, on what. One that every scenario has
since been measured anew without is forgotten.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.benchmarks.peers import PEERS
from tests.benchmarks.scenarios import NAMES

#: Significant digits that are kept: more than any figure here is worth, and the file stays small.
DIGITS = 5


def load(path: Path | None) -> dict[str, Any]:
    """What ``path`` holds; nothing where there is no such file."""
    if path is None or not path.exists():
        return {"runs": [], "peers": {}, "scenarios": {}}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def save(path: Path, found: dict[str, Any]) -> None:
    """Write it, one scenario a line, always in the same order; whole or not at all."""
    found = _short(found)
    scenarios = ",\n".join(f"{json.dumps(name)}: {_json(result)}" for name, result in found["scenarios"].items())
    runs = ",\n".join(_json(run) for run in found["runs"])
    text = f'{{"runs": [\n{runs}\n],\n"peers": {_json(found["peers"])},\n"scenarios": {{\n{scenarios}\n}}}}\n'
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def tidy(found: dict[str, Any]) -> None:
    """The scenarios in their order, and only the runs that one of them is from."""
    scenarios = {name: found["scenarios"][name] for name in NAMES if name in found["scenarios"]}
    used = sorted({result["run"] for result in scenarios.values()})
    for result in scenarios.values():
        result["run"] = used.index(result["run"])
    found["runs"] = [found["runs"][number] for number in used]
    found["scenarios"] = scenarios


def peers_without(found: dict[str, Any], names: Iterable[str], chosen: Iterable[str]) -> list[str]:
    """The peers with rows in those scenarios that are not ``chosen``: what is measured together is compared."""
    rows = (row for name in names if name in found["scenarios"] for row in found["scenarios"][name]["rows"])
    return sorted({row["who"] for row in rows} & set(PEERS) - set(chosen))


def main_run(found: dict[str, Any]) -> int:
    """The run that most scenarios are from, of several the latest: what stands at the head of RESULTS.md."""
    counts = Counter(result["run"] for result in found["scenarios"].values())
    return max(counts, key=lambda number: (counts[number], number), default=len(found["runs"]) - 1)


def took(found: dict[str, Any]) -> str:
    """How long all took, and each."""
    seconds = {name: result["seconds"] for name, result in found["scenarios"].items()}
    each = ", ".join(f"{name} {taken / 60:.1f}" for name, taken in seconds.items())
    return f"{sum(seconds.values()) / 60:.0f} min: {each}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "), allow_nan=False)


def _short(value: Any) -> Any:
    """With fewer digits, and null for what is no number: JSON knows no NaN."""
    if isinstance(value, dict):
        return {str(key): _short(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_short(item) for item in value]
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short == int(short) else short
