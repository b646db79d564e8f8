"""``pgfleet workers …``: who is at work."""

from __future__ import annotations

import click
from psycopg.rows import dict_row

from pgfleet import db, sql
from pgfleet.cli.database import connection
from pgfleet.cli.output import json_option, print_json, print_table

COLUMNS = ("id", "status", "node", "types", "concurrency", "version", "started_at", "renewed_at")


@click.group()
def workers() -> None:
    """Workers: list."""


@workers.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Show the workers, the oldest first. A worker is `lost` when it has not renewed its lease in time."""
    with connection("workers list") as conn, db.ours(), conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(sql.queries("workers")["list"]).fetchall()
    if as_json:
        print_json(rows)
    else:
        print_table(COLUMNS, rows, empty="No worker is registered. Start one: pgfleet worker.")
