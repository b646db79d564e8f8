"""``pgfleet types …``: what the fleet can do, and what holds for the tasks of each type."""

from __future__ import annotations

from datetime import timedelta

import click
import psycopg

from pgfleet import tasks
from pgfleet.cli.database import connection
from pgfleet.cli.failure import Failure
from pgfleet.cli.moments import length
from pgfleet.cli.output import json_option, print_fields, print_json, print_table

COLUMNS = (
    "name", "running", "max_running", "timeout", "max_retries", "retry_delay", "max_retry_delay", "max_crashes",
    "for_readers", "description",
)  # fmt: skip

_count = click.IntRange(0, 1000)


@click.group()
def types() -> None:
    """Task types: list, set."""


@types.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Show the task types the fleet knows, by name, with their limits and how many of each run. Durations are seconds."""
    with connection("types list") as conn:
        rows = tasks.types(conn, running=True)
    if as_json:
        print_json(rows)
    else:
        print_table(COLUMNS, rows, empty="")


@types.command("set")
@click.argument("name")
@click.option(
    "--max-running", type=click.IntRange(0, 2**31 - 1), help="Tasks at once, over the whole fleet; 0: no limit."
)
@click.option(
    "--timeout",
    callback=length,
    metavar="LENGTH",
    help="An attempt that takes longer has failed; 0: no limit.",
)
@click.option("--max-retries", type=_count, help="Automatic retries after failures.")
@click.option("--retry-delay", callback=length, metavar="LENGTH", help="Before the first retry, doubled each time.")
@click.option("--max-retry-delay", callback=length, metavar="LENGTH", help="Before a retry, at most.")
@click.option("--max-crashes", type=_count, help="Workers a task may lose before it is `crashed`.")
@json_option
def set_(
    name: str,
    max_running: int | None,
    timeout: timedelta | None,
    max_retries: int | None,
    retry_delay: timedelta | None,
    max_retry_delay: timedelta | None,
    max_crashes: int | None,
    as_json: bool,
) -> None:
    """Change what holds for the tasks of type NAME that don't say otherwise; what is left out stays as it is."""
    given = (max_running, timeout, max_retries, retry_delay, max_retry_delay, max_crashes)
    if all(value is None for value in given):
        raise click.UsageError("Say what to set: --max-running, --timeout, …")
    with connection("types set") as conn:
        try:
            tasks.configure_type(
                conn,
                name,
                max_running=max_running,
                timeout=timeout,
                max_retries=max_retries,
                retry_delay=retry_delay,
                max_retry_delay=max_retry_delay,
                max_crashes=max_crashes,
            )
        except psycopg.errors.LockNotAvailable:
            raise Failure(
                f"Type {name} could not be changed: claims that were under way did not end in time.",
                hint="Nothing was changed. Say it again.",
            ) from None
        (row,) = (row for row in tasks.types(conn, running=True) if row["name"] == name)
    if as_json:
        print_json(row)
    else:
        print_fields({column: row[column] for column in COLUMNS})
