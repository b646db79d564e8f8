"""What commands print: a table for people on a terminal, tab-separated lines in a pipe, JSON where asked for."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import click

#: What a terminal obeys: C0 and C1 but for tab and line feed.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


def print_json(value: Any) -> None:
    """Print ``value`` as JSON: times in ISO 8601 with offset, durations in seconds."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=_plain))


def print_table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, empty: str) -> None:
    """Print ``rows``. On a terminal a table, or the sentence ``empty``; else one line a row under a line of names."""
    lines = [[_cell(row[name]) for name in columns] for row in rows]
    if not sys.stdout.isatty():
        for line in [list(columns), *lines]:
            print_line(line)
        return
    if not lines:
        click.echo(empty)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    for line in lines:
        table.add_row(*(Text(printable(cell)) for cell in line))  # Text: a task's own brackets are no markup
    Console().print(table)


def print_line(values: Iterable[Any]) -> None:
    """Print one row's values on a line, separated by tabs; those in the values themselves are escaped."""
    click.echo("\t".join(_one_line(_cell(value)) for value in values))


def printable(text: str) -> str:
    """``text`` for a terminal: a task's own control characters are shown and not obeyed."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def print_fields(row: Mapping[str, Any]) -> None:
    """Print one row, a field a line; those without a value are left out on a terminal."""
    terminal = sys.stdout.isatty()
    width = max(map(len, row)) + 2 if terminal else 0
    for name, value in row.items():
        if terminal and value is not None:
            cell = printable(_cell(value)).replace("\n", "\n" + " " * width)
            click.echo(click.style(name.ljust(width), bold=True) + cell)
        elif not terminal:
            click.echo(f"{name}\t{_one_line(_cell(value))}")


def _plain(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g} s"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


def _one_line(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("\t", "\\t").replace("\r", "\\r").replace("\n", "\\n")
