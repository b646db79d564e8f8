"""``pgfleet tasks …``: look at tasks, create them, retry them, call them off."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import click

from pgfleet import db
from pgfleet import tasks as tasks_module
from pgfleet.cli.database import connection
from pgfleet.cli.failure import Failure
from pgfleet.cli.output import json_option, print_fields, print_json, print_table
from pgfleet.cli.purge import purge
from pgfleet.errors import PgfleetError

COLUMNS = ("id", "type", "status", "worker", "priority", "attempt", "created_by", "created_at", "updated_on", "error")
ID = click.IntRange(1, tasks_module.MAX_BIGINT)
SECONDS = click.FloatRange(0, 1e9)


def _sort(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, bool]:
    """``field``, ``field:asc`` or ``field:desc``, as in the API's ``sortBy``."""
    field, _, direction = value.partition(":")
    if field not in tasks_module.SORTABLE or direction not in ("", "asc", "desc"):
        raise click.BadParameter(f"{value!r}: expected one of {', '.join(tasks_module.SORTABLE)}, then :asc or :desc.")
    return field, direction == "desc"


def _moment(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    """A time in ISO 8601; without an offset it is the local time."""
    try:
        return None if value is None else datetime.fromisoformat(value).astimezone()
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{value!r} is no time: expected one such as 2026-01-31T08:00:00+01:00.") from None


@click.group()
def tasks() -> None:
    """Tasks: list, show, create, retry, cancel."""


tasks.add_command(purge)


@tasks.command("list")
@click.option("--status", type=click.Choice(tasks_module.STATUSES), multiple=True, help="Only these; repeatable.")
@click.option("--type", "type_", multiple=True, help="Only these types; repeatable.")
@click.option("--created-by", type=int, help="Only this user's.")
@click.option("--offset", type=click.IntRange(0), default=0, show_default=True)
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@click.option("--sort", callback=_sort, default="id:desc", show_default=True, metavar="FIELD[:asc|:desc]")
@json_option
def list_(
    status: Sequence[str],
    type_: Sequence[str],
    created_by: int | None,
    offset: int,
    limit: int,
    sort: tuple[str, bool],
    as_json: bool,
) -> None:
    """Show tasks, the newest first. JSON has the shape of GET /v1/tasks."""
    field, descending = sort
    with connection("tasks list") as conn:
        page = tasks_module.find(
            conn,
            created_by=created_by,
            status=status,
            type=type_,
            offset=offset,
            limit=limit,
            sort=field,
            descending=descending,
        )
    if as_json:
        print_json({"list": page.rows, "offset": page.offset, "pageSize": len(page.rows), "totalSize": page.total})
        return
    print_table(COLUMNS, page.rows, empty="No task matches.")
    last = page.offset + len(page.rows)
    if page.rows and (page.total > last or page.offset):
        click.echo(f"{page.offset + 1} to {last} of {page.total}; more: --offset, --limit.", err=True)


@tasks.command()
@click.argument("id", type=ID)
@json_option
def show(id: int, as_json: bool) -> None:
    """Show all of one task."""
    with connection("tasks show") as conn:
        row = tasks_module.get(conn, id)
    if as_json:
        print_json(row)
    else:
        print_fields(row)


@tasks.command()
@click.argument("type")
@click.argument("data", required=False)
@click.option("--user", "created_by", type=int, required=True, help="Id of the user it is made for; 0: nobody's.")
@click.option(
    "--priority", type=click.IntRange(-(2**31), 2**31 - 1), default=0, show_default=True, help="Higher first."
)
@click.option("--run-at", callback=_moment, metavar="TIME", help="Not before this time (ISO 8601).")
@click.option("--delay", type=SECONDS, help="Not before so many seconds from now.")
@click.option("--max-retries", type=click.IntRange(0, 1000), help="Default: its type's.")
@click.option("--retry-delay", type=SECONDS, help="Seconds before the first retry; default: its type's.")
@click.option("--unique-key", help="Answer the unfinished task of this type and key where there is one.")
@json_option
def create(
    type: str,
    data: str | None,
    created_by: int,
    priority: int,
    run_at: datetime | None,
    delay: float | None,
    max_retries: int | None,
    retry_delay: float | None,
    unique_key: str | None,
    as_json: bool,
) -> None:
    """Create a task of TYPE with DATA (any text, JSON by habit; "-" reads it from stdin) and print its id."""
    if run_at is not None and delay is not None:
        raise click.UsageError("--run-at and --delay say the same thing in two ways: give one.")
    if data == "-":
        data = sys.stdin.read()
    with connection("tasks create") as conn:
        id = tasks_module.create(
            conn,
            type,
            data,
            created_by=created_by,
            priority=priority,
            run_at=run_at,
            delay=_duration(delay),
            max_retries=max_retries,
            retry_delay=_duration(retry_delay),
            unique_key=unique_key,
        )
    if as_json:
        print_json({"task_id": id})
    else:
        click.echo(id)


@tasks.command()
@click.argument("ids", type=ID, nargs=-1, required=True)
@click.option("--reset-failure-count", is_flag=True, help="Give it its automatic retries anew.")
def retry(ids: Sequence[int], reset_failure_count: bool) -> None:
    """Make tasks ready again that are failure, crashed or cancelled."""

    def again(conn: db.Connection, id: int) -> None:
        tasks_module.retry(conn, id, reset_failure_count=reset_failure_count)

    _each(ids, "retry", "is fresh again", again)


@tasks.command()
@click.argument("ids", type=ID, nargs=-1, required=True)
def cancel(ids: Sequence[int]) -> None:
    """Call off tasks that have not started."""
    _each(ids, "cancel", "is cancelled", tasks_module.cancel)


def _each(ids: Sequence[int], verb: str, done: str, act: Callable[[db.Connection, int], object]) -> None:
    """Act on every id, telling of each; one that is refused doesn't stop the others, but the command has failed."""
    refused = 0
    with connection(f"tasks {verb}") as conn:
        for id in ids:
            try:
                act(conn, id)
            except PgfleetError as error:
                if len(ids) == 1 or conn.broken:
                    raise
                Failure.of(error).show()
                refused += 1
            else:
                click.echo(f"Task {id} {done}.")
    if refused:
        raise Failure(f"{refused} of {len(ids)} tasks were refused.")


def _duration(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
