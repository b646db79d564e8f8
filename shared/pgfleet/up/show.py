"""What ``pgfleet up`` prints on standard output: the export, and what to try next."""

from __future__ import annotations

import shlex
import shutil
import sys
import unicodedata
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from pgfleet import sql
from pgfleet.up.client import Download
from pgfleet.up.fleet import Fleet

#: Lines of the CSV that are shown: its header and some books.
LINES = 11


def export(done: Download, path: Path) -> Iterator[str]:
    """Where the CSV is, and its first lines; on a terminal, cut to its width."""
    books = "1 book" if done.rows == 1 else f"{done.rows:,} books"
    yield f"Exported {books} of reader 1 in {done.seconds:.2f} s: task {done.task_id}, done by {done.worker}."
    yield f"CSV: {path} ({done.size:,} bytes)"
    yield ""
    # A piece of a character may stand at the end of what was kept.
    lines = done.beginning.decode(errors="ignore").split("\n")
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for line in lines[:LINES]:
        yield cut(line, width) if width else line
    if done.rows >= LINES:
        yield "..."
    yield ""


def next_steps(fleet: Fleet, folder: Path, default: bool) -> Iterator[str]:
    """URLs, tokens, and lines that work in another terminal."""
    checkout = sql.root().parent
    program = "python3 run.py" if (checkout / "run.py").is_file() else "pgfleet"
    if program != "pgfleet" and Path.cwd() != checkout:
        program = f"python3 {shlex.quote(str(checkout / 'run.py'))}"
    if not default:
        program = f"PGFLEET_DIR={shlex.quote(str(folder))} {program}"
    url = fleet.api_url
    yield f"API      {url}  (its reference: {url}/docs)"
    yield f"Reader   {fleet.reader_token}"
    yield f"Admin    {fleet.admin_token}"
    yield f"Logs     {folder / 'logs'}"
    yield ""
    yield "Try in another terminal:"
    yield f"  TOKEN={fleet.reader_token}"
    yield (
        f'  curl -X POST {url}/v1/tasks -H "Authorization: Bearer $TOKEN" '
        """-H 'Content-Type: application/json' -d '{"type": "csv_export"}'"""
    )
    yield f'  curl {url}/v1/files -H "Authorization: Bearer $TOKEN"'
    yield f"  {program} tasks list"
    yield f"  {program} worker --nickname another"
    yield ""
    yield "Ctrl-C stops everything."


def cut(line: str, width: int) -> str:
    """``line`` in at most ``width`` columns of a terminal, where East Asian characters take two and marks none."""
    ends = list(accumulate(map(_columns, line)))
    if not ends or ends[-1] <= width:
        return line
    return line[: sum(end < width for end in ends)] + "…"


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
