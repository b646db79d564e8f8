"""The texts of ``sql/``: migrations, functions, and the named queries that Python sends.

In an installed wheel they lie in ``pgfleet/sql``; in a checkout beside ``shared/``.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import LiteralString

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def root() -> Path:
    """The folder that holds the SQL files."""
    package = Path(__file__).parent
    for folder in (package / "sql", package.parents[1] / "sql"):
        if (folder / "migrations").is_dir():
            return folder
    raise FileNotFoundError(f"pgfleet's SQL files are missing: neither {package / 'sql'} nor a checkout holds them")


@cache
def text(path: str) -> LiteralString:
    """The text of one file, its path relative to ``sql/``. It is ours, as trusted as a literal in the code."""
    return (root() / path).read_text(encoding="utf-8")


@cache
def queries(topic: str) -> dict[str, LiteralString]:
    """The queries of ``sql/queries/<topic>.sql`` by name; each begins at a line ``-- name: …``."""
    parts = _NAME.split(text(f"queries/{topic}.sql"))
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}
