"""The log's events are a contract: what the code can log is what the READMEs name, and nothing else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
EVENT = re.compile(r"[a-z]+\.[a-z_]+")
#: Methods of a log, and our functions that pass an event on to one.
LOGS = {"debug", "info", "warning", "error", "critical", "tell", "_log", "_tell"}


def logged() -> Iterator[str]:
    """Event names given to a log call in our packages, directly, by a function that logs, or through a name."""
    for package in ("api/pgfleet_api", "worker/pgfleet_worker", "shared/pgfleet"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                match node:
                    case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name), args=[first, *_]) if name in LOGS:
                        yield from _names(first)
                    case ast.Call(func=ast.IfExp(body=ast.Attribute(attr=name)), args=[first, *_]) if name in LOGS:
                        yield from _names(first)
                    case ast.Assign(targets=[ast.Name(id="event" | "EVENTS")], value=value):
                        yield from _names(value)


def _names(node: ast.expr) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and EVENT.fullmatch(part.value):
            yield part.value


def documented() -> Iterator[str]:
    """Event names in the READMEs' sections on log events."""
    for readme in ("api/README.md", "worker/README.md"):
        text = (ROOT / readme).read_text("utf-8")
        section = re.search(r"^#+ Log events$(.*?)(?=^## |\Z)", text, re.M | re.S)
        assert section, f"{readme} has no section on log events"
        yield from (name for name in re.findall(r"`([^`]*)`", section[1]) if EVENT.fullmatch(name))


def test_every_event_that_can_be_logged_is_documented_and_no_other() -> None:
    can, said = set(logged()), set(documented())
    assert len(can) > 40
    assert can == said, f"not documented: {sorted(can - said)}; never logged: {sorted(said - can)}"
