"""The table on the terminal, and RESULTS.md."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks import record
from tests.benchmarks.scenarios import about

HERE = Path(__file__).parent
#: Written by hand, taken over as it is: where the time goes.
NOTES = HERE / "PROFILE.md"


def number(value: float | None) -> str:
    """Short, to about three digits."""
    if value is None or math.isnan(value):
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _cells(row: dict[str, Any]) -> list[str]:
    spread = "" if row["low"] is None else f"{number(row['low'])} – {number(row['high'])}"
    reached = {None: "", True: "yes", False: "NO"}[row["reached"]]
    return [
        row["who"], row["metric"], f"{number(row['value'])} {row['unit']}".strip(), spread, str(row["of"]),
        row["target"], reached, row["note"],
    ]  # fmt: skip


HEAD = ["who", "what", "median", "spread", "of", "target", "reached", "note"]


def show(name: str, result: dict[str, Any]) -> None:
    """One scenario as a table on stdout."""
    table = Table(title=name, title_justify="left")
    for head in HEAD:
        table.add_column(head, overflow="fold")
    for row in result["rows"]:
        table.add_row(*_cells(row))
    console = Console()
    # Not a terminal: a file or a pipe must not cut the table to 80 columns.
    (console if console.is_terminal else Console(width=180)).print(table)


def markdown(report: dict[str, Any], plots: Path | None) -> str:
    """RESULTS.md; ``plots`` is the folder of the PNGs where they lie beside it."""
    main = record.main_run(report)
    run = report["runs"][main]
    machine, postgres = run["machine"], run["postgres"]
    settings = ", ".join(f"`{name}={value}`" for name, value in postgres["options"].items())
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    lines = [
        "# Results",
        "",
        "Written by `python3 run.py bench --write-results`; not edited by hand. A row that a peer wins stays.",
        "",
        f"- **When**: {machine['date']}, commit {machine['commit']}, load before: {machine['load_before'][0]}",
        f"- **Machine**: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}",
        f"- **Postgres**: {postgres['version']} (embedded), on {postgres['file_system']}; {settings}; else its defaults",
        f"- **Python**: {machine['python']}; {packages}",
        f"- **Command**: `{run['command']}`; rounds in which all take turns; figures are medians (*of* so many values), "
        "the spread is the lowest to the highest",
        f"- **Took**: {record.took(report)}",
        "- Before every timed part: a fresh database or a fresh copy of one with the backlog, VACUUM ANALYZE, CHECKPOINT. The "
        "server has the segments of its WAL from the start, as one that has run for a while (a new one makes each when it is "
        "needed, 50 ms in which nobody commits).",
        "- *The limit* is a bare psycopg loop over two connections that claims and settles with the same SQL and runs "
        "nothing.",
        "",
    ]
    targets = [(name, row) for name, r in report["scenarios"].items() for row in r["rows"] if row["target"]]
    if targets:
        lines += [
            "## Targets",
            "",
            "| scenario | what | who | measured | target | reached |",
            "|---|---|---|---|---|---|",
        ]
        for name, row in targets:
            who, what, value, _, _, target, reached, _ = _cells(row)
            lines.append(f"| `{name}` | {what} | {who} | {value} | {target} | {reached} |")
        lines.append("")
    for name, result in report["scenarios"].items():
        lines += [f"## {name}", "", " ".join(about(name).replace("``", "`").split()), ""]
        if result["run"] != main:
            lines += [_measured_apart(report["runs"][result["run"]], machine), ""]
        if result.get("error"):
            lines += [f"**Failed:** {result['error'].splitlines()[0]}", ""]
        if result["rows"]:
            lines += ["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
            lines += [
                "| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(row)) + " |" for row in result["rows"]
            ]
            lines.append("")
        if plots is not None and (plots / f"{name}.png").exists():
            lines += [f"![{name}]({plots.name}/{name}.png)", ""]
    if report["peers"]:
        lines += ["## The peers' configurations", ""]
        for name, peer in report["peers"].items():
            chosen = ", ".join(f"{key} {value}" for key, value in (peer["settings"] or {}).items())
            lines.append(f"- **{name}**: {peer['description']}" + (f" ({chosen})" if chosen else ""))
        lines.append("")
    if run["left_out"]:
        lines += ["Left out: " + "; ".join(run["left_out"]), ""]
    if failures := [failure for result in report["scenarios"].values() for failure in result["failures"]]:
        lines += ["## What failed", "", *(f"- {failure.splitlines()[0]}" for failure in failures), ""]
    if NOTES.exists():
        lines += [NOTES.read_text(encoding="utf-8").strip(), ""]
    return "\n".join(lines)


def _measured_apart(run: dict[str, Any], main: dict[str, Any]) -> str:
    """When and how a scenario was measured that is not from the run at the head; on what, where that differs."""
    machine = run["machine"]
    on = [f"{key}: {machine[key]}" for key in ("cpu", "cores", "system", "python") if machine[key] != main[key]]
    return (
        f"*Measured apart: {machine['date']}, commit {machine['commit']}, load before: {machine['load_before'][0]}, "
        f"by `{run['command']}`{''.join('; ' + other for other in on)}.*"
    )
