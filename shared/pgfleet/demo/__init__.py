"""The demo library: BookLogr's two tables with real books in them, for ``pgfleet up`` and the tests.

``library.json`` holds one book a line: true titles, authors, ISBN-13s and, of that edition, page counts (null where
catalogues disagree), in several scripts. The notes are made up, and awkward on purpose. Reader 1 has most of the books,
reader 2 the rest.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import psycopg

from pgfleet import sql

#: Locks out a second installation at the same time; any number nobody else uses does.
_LOCK = 0x626F_6F6B_6C6F_6772  # "booklogr"


def books() -> list[dict[str, Any]]:
    """The demo books as ``library.json`` has them, each with its ``owner_id`` and ``notes``."""
    library: list[dict[str, Any]] = json.loads(files(__package__).joinpath("library.json").read_text(encoding="utf-8"))
    return library


def install(conn: psycopg.Connection[Any]) -> int:
    """Create BookLogr's ``books`` and ``notes`` where they are missing and fill them if ``books`` is empty.

    Books that are there already, whoever's, are left alone. Returns how many books the table then holds.
    Several processes may call this at once.
    """
    with conn.transaction():
        conn.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        conn.execute(sql.text("demo/library.sql"))
        conn.execute(sql.text("demo/books.sql"), {"library": json.dumps(books())})
        row = conn.execute("SELECT count(*) FROM books").fetchone()
    return int(row[0]) if row else 0
