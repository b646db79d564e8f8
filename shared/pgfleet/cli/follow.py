"""Following tasks until they end: bars on a terminal, a line for each change in a pipe, nothing where JSON is asked for."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, Self

from pgfleet import db, tasks
from pgfleet.cli.database import poll
from pgfleet.cli.failure import Failure
from pgfleet.cli.output import print_line, printable

if TYPE_CHECKING:
    from rich.progress import TaskID

#: Seconds between two looks, one statement by primary key each; the longer of many tasks.
PAUSE, PAUSE_OF_MANY, MANY = 0.5, 2.0, 100
#: Bars on a terminal, at most; of more tasks one bar tells.
BARS = 20

COLUMNS = ("id", "type", "status", "attempt", "progress", "current_step", "error")

Rows = dict[int, dict[str, Any]]


class Display(Protocol):
    """Shows how the tasks stand, each time they were looked at."""

    def show(self, rows: Rows) -> None: ...


def until_ended(ids: Sequence[int], *, max_wait: float | None, quiet: bool = False) -> Rows:
    """Follow the tasks until all have ended, over any outage of the database; answers their rows as they ended.

    An id that no task has, any more, is missing in the answer. Fails after ``max_wait`` seconds.
    """
    rows: Rows = {}
    pending = list(dict.fromkeys(ids))
    with _display(pending, quiet) as display:

        def look(conn: db.Connection) -> bool:
            nonlocal pending
            found = tasks.states(conn, pending)
            for id in pending:
                rows.pop(id, None)
            rows.update(found)
            pending = [id for id, row in found.items() if row["status"] in tasks.UNFINISHED]
            display.show(rows)
            return not pending

        ended = poll("tasks follow", look, pause=PAUSE if len(ids) <= MANY else PAUSE_OF_MANY, max_wait=max_wait)
    if not ended:
        raise Failure(
            f"{len(pending)} of {len(ids)} tasks had not ended after {max_wait:g} s.",
            hint=f"Look at the first: pgfleet tasks show {pending[0]}.",
        )
    return rows


def require(ids: Sequence[int], rows: Rows, status: str) -> None:
    """Fail unless every task ended in ``status``."""
    others = [
        (id, rows[id]["status"] if id in rows else "gone") for id in ids if rows.get(id, {}).get("status") != status
    ]
    if others:
        shown = ", ".join(f"{id} {how}" for id, how in others[:10]) + (", …" if len(others) > 10 else "")
        raise Failure(
            f"{len(others)} of {len(ids)} tasks did not end as {status}: {shown}.",
            hint=f"See why: pgfleet tasks show {others[0][0]}.",
        )


def _display(ids: Sequence[int], quiet: bool) -> AbstractContextManager[Display]:
    if quiet:
        return nullcontext(_Nothing())
    return _Bars(ids) if sys.stdout.isatty() else nullcontext(_Lines())


class _Nothing:
    def show(self, rows: Rows) -> None:
        pass


class _Lines:
    """A line whenever a task's status, attempt or step is another than before."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[Any, ...]] = {}
        print_line(COLUMNS)

    def show(self, rows: Rows) -> None:
        for id, row in sorted(rows.items()):
            now = (row["status"], row["attempt"], row["current_step"])
            if self._last.get(id) != now:
                self._last[id] = now
                print_line([row[name] for name in COLUMNS])


class _Bars:
    """A bar for each of a few tasks; of many one, which counts how they ended."""

    def __init__(self, ids: Sequence[int]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._ids = ids
        # Markup off: a step's own brackets are no markup.
        columns = [
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[said]}", markup=False),
        ]
        self._progress = Progress(*columns, console=Console())
        self._bars: dict[int, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, rows: Rows) -> None:
        if len(self._ids) > BARS:
            counts = Counter(row["status"] for row in rows.values())
            done = len(self._ids) - sum(counts[status] for status in tasks.UNFINISHED)
            said = ", ".join(f"{counts[status]} {status}" for status in tasks.STATUSES if counts[status])
            self._draw(0, f"{len(self._ids)} tasks", done / len(self._ids), said)
            return
        for id, row in sorted(rows.items()):
            share = 1.0 if row["status"] == "success" else row["progress"]
            self._draw(id, f"{id} {row['type']}", share, _said(row))
        self._progress.refresh()

    def _draw(self, key: int, description: str, share: float | None, said: str) -> None:
        if key not in self._bars:
            self._bars[key] = self._progress.add_task(description, total=1.0, said=said)
        self._progress.update(self._bars[key], completed=share or 0.0, said=said)


def _said(row: dict[str, Any]) -> str:
    """What stands behind a task's bar."""
    parts = [row["status"]]
    if row["attempt"] > 1:
        parts.append(f"attempt {row['attempt']}")
    if row["status"] == "started":
        if row["progress"] is not None:
            parts.append(f"{row['progress']:.0%}")
        if row["seconds_left"] is not None:
            parts.append(f"{row['seconds_left']:.0f} s left")
        parts.append(row["current_step"] or "")
    elif row["status"] != "success":
        parts.append(row["error"] or "")
    return printable(" · ".join(part for part in parts if part).replace("\n", " "))
