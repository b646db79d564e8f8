"""``pgfleet settings``: every setting, what it means and what it is here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgfleet import settings as settings_module
from pgfleet.cli.output import json_option, print_json, print_table
from pgfleet.settings import FIELDS

MASK = "********"


@click.command()
@json_option
@click.option("--markdown", is_flag=True, help="Print the README's table: names, defaults, meanings.")
def settings(as_json: bool, markdown: bool) -> None:
    """Show every setting with its value here (secrets masked) and its meaning."""
    if markdown:
        click.echo("\n".join(_markdown()))
        return
    current = settings_module.from_env()
    rows = [
        {"name": name, "value": _shown(field.name, getattr(current, field.name)), "meaning": field.metadata["doc"]}
        for name, field in FIELDS.items()
    ]
    if as_json:
        print_json(rows)
    else:
        print_table(("name", "value", "meaning"), rows, empty="")


def _shown(name: str, value: Any) -> Any:
    if "secret" in name and value:
        return MASK
    if name == "database_url" and value:
        # Written anew from its parts: a password may stand in a URL in more than one place and spelling.
        try:
            given: dict[str, Any] = conninfo_to_dict(value)
        except psycopg.ProgrammingError:
            return "(malformed)"
        return make_conninfo(**{**given, **({"password": MASK} if "password" in given else {})})
    return str(value) if isinstance(value, Path) else value


def _markdown() -> Iterator[str]:
    yield "| setting | default | meaning |"
    yield "|---|---|---|"
    for name, field in FIELDS.items():
        if field.default is dataclasses.MISSING:  # made at the start of each process
            default = "the host's name"
        else:
            text = ",".join(field.default) if isinstance(field.default, tuple) else str(field.default)
            default = f"`{text.lower() if isinstance(field.default, bool) else text}`" if text else ""
        yield f"| `{name}` | {default} | {field.metadata['doc']} |"
