"""``pgfleet tasks …``: look at tasks, create them, follow them, call them off, retry them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import click

from pgfleet import db
from pgfleet import tasks as tasks_module
from pgfleet.cli import follow
from pgfleet.cli.database import connection, max_wait_option
from pgfleet.cli.each import each
from pgfleet.cli.failure import Failure
from pgfleet.cli.moments import length, moment
from pgfleet.cli.output import json_option, print_fields, print_json, print_table
from pgfleet.cli.purge import purge
from pgfleet.cli.schedule_rows import MEMORY, STORAGE, for_table, of_memory
from pgfleet.errors import TaskNotFound, UnknownType

#: What `list` shows, and how the cluster scheduler's contract calls it.
COLUMNS = {
    "id": "ID", "type": "Type", "status": "Status", "next_run": "Next Run", "last_run": "Last Run",
    "failures": "Failures", "persistent": "Persistent", "worker": "Worker", "priority": "Priority",
    "created_by": "Created By", "created_at": "Created At", "updated_on": "Updated On", "error": "Error",
}  # fmt: skip
ATTEMPT_COLUMNS = (
    "attempt", "status", "worker", "node", "started_at", "ended_at", "cpu_seconds", "peak_memory", "error"
)  # fmt: skip
#: Attempts that `show` prints, and tasks that `watch` follows, at most.
MOST_ATTEMPTS, MOST_WATCHED = 100, 10_000
ID = click.IntRange(1, tasks_module.MAX_BIGINT)
USER = click.IntRange(0, tasks_module.MAX_BIGINT)


def _sort(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, bool]:
    """``field``, ``field:asc`` or ``field:desc``, as in the API's ``sortBy``."""
    field, _, direction = value.partition(":")
    if field not in tasks_module.SORTABLE or direction not in ("", "asc", "desc"):
        raise click.BadParameter(f"{value!r}: expected one of {', '.join(tasks_module.SORTABLE)}, then :asc or :desc.")
    return field, direction == "desc"


@click.group()
def tasks() -> None:
    """Tasks: list, show, create, watch, cancel, retry, resume, purge."""


tasks.add_command(purge)


@tasks.command("list")
@click.option("--status", type=click.Choice(tasks_module.STATUSES), multiple=True, help="Only these; repeatable.")
@click.option("--type", "type_", multiple=True, help="Only these types; repeatable.")
@click.option("--created-by", type=USER, help="Only this user's.")
@click.option("--parent", type=ID, help="Only the parts of this task, which was made for all nodes.")
@click.option("--offset", type=click.IntRange(0, tasks_module.MAX_BIGINT), default=0, show_default=True)
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@click.option("--sort", callback=_sort, default="id:desc", show_default=True, metavar="FIELD[:asc|:desc]")
@json_option
def list_(
    status: Sequence[str],
    type_: Sequence[str],
    created_by: int | None,
    parent: int | None,
    offset: int,
    limit: int,
    sort: tuple[str, bool],
    as_json: bool,
) -> None:
    """Show tasks, the newest first, then what workers run on schedules of their memory. JSON: as GET /v1/tasks, tasks alone."""
    field, descending = sort
    with connection("tasks list") as conn:
        page = tasks_module.find(
            conn,
            created_by=created_by,
            status=status,
            type=type_,
            parent=parent,
            offset=offset,
            limit=limit,
            sort=field,
            descending=descending,
        )
        # What lives in workers' memory is no task, and has no status, owner or parent to match.
        in_memory = [] if status or created_by is not None or parent or offset else of_memory(conn)
    if as_json:
        print_json({"list": page.rows, "offset": page.offset, "pageSize": limit, "totalSize": page.total})
        return
    shown = [_listed(row) for row in page.rows]
    shown += [_listed_memory(row) for row in in_memory if not type_ or row["type"] in type_]
    print_table(list(COLUMNS.values()), shown, empty="No task matches.")
    last = page.offset + len(page.rows)
    if page.rows and (page.total > last or page.offset):
        click.echo(f"{page.offset + 1} to {last} of {page.total}; more: --offset, --limit.", err=True)


@tasks.command()
@click.argument("id", type=ID)
@json_option
def show(id: int, as_json: bool) -> None:
    """Show all of one task, and its attempts, the latest first."""
    with connection("tasks show") as conn:
        row = tasks_module.get(conn, id)
        history = tasks_module.executions(conn, id, limit=MOST_ATTEMPTS)
    if as_json:
        print_json({**row, "executions": history.rows})
        return
    print_fields(row)
    if history.rows:
        click.echo()
        print_table(ATTEMPT_COLUMNS, history.rows, empty="")
        if history.total > len(history.rows):
            click.echo(f"The last {len(history.rows)} of {history.total} attempts.", err=True)


@tasks.command()
@click.argument("type")
@click.argument("data", required=False)
@click.option("--user", "created_by", type=USER, required=True, help="Id of the user it is made for; 0: nobody's.")
@click.option(
    "--priority", type=click.IntRange(-(2**31), 2**31 - 1), default=0, show_default=True, help="Higher first."
)
@click.option("--run-at", callback=moment, metavar="TIME", help="Not before this time (ISO 8601).")
@click.option("--delay", callback=length, metavar="LENGTH", help="Not before so long from now: 90s, 12h, 30d.")
@click.option("--max-retries", type=click.IntRange(0, 1000), help="Default: its type's.")
@click.option("--retry-delay", callback=length, metavar="LENGTH", help="Before the first retry; default: its type's.")
@click.option("--unique-key", help="Answer the unfinished task of this type and key where there is one.")
@click.option("--timeout", callback=length, metavar="LENGTH", help="How long an attempt may take; default: its type's.")
@click.option("--node", help="Only this server's workers take it.")
@click.option("--all-nodes", is_flag=True, help="One task for each live node, and a parent that sums them up: its id.")
@json_option
def create(
    type: str,
    data: str | None,
    created_by: int,
    priority: int,
    run_at: datetime | None,
    delay: timedelta | None,
    max_retries: int | None,
    retry_delay: timedelta | None,
    unique_key: str | None,
    timeout: timedelta | None,
    node: str | None,
    all_nodes: bool,
    as_json: bool,
) -> None:
    """Create a task of TYPE with DATA (any text, JSON by habit; "-" reads it from stdin) and print its id."""
    if run_at is not None and delay is not None:
        raise click.UsageError("--run-at and --delay say the same thing in two ways: give one.")
    if all_nodes and any(value is not None for value in (run_at, delay, unique_key, node)):
        raise click.UsageError("--all-nodes excludes --node, --run-at, --delay and --unique-key.")
    if data == "-":
        data = sys.stdin.read()
    with connection("tasks create") as conn:
        if all_nodes:
            id = tasks_module.create_for_all_nodes(
                conn,
                type,
                data,
                created_by=created_by,
                priority=priority,
                max_retries=max_retries,
                retry_delay=retry_delay,
                timeout=timeout,
            )
        else:
            id = tasks_module.create(
                conn,
                type,
                data,
                created_by=created_by,
                priority=priority,
                run_at=run_at,
                delay=delay,
                max_retries=max_retries,
                retry_delay=retry_delay,
                unique_key=unique_key,
                timeout=timeout,
                node=node,
            )
    if as_json:
        print_json({"task_id": id})
    else:
        click.echo(id)


@tasks.command()
@click.argument("ids", type=ID, nargs=-1, required=True)
@click.option("--reset-failure-count", is_flag=True, help="Give it its automatic retries anew.")
@json_option
def retry(ids: Sequence[int], reset_failure_count: bool, as_json: bool) -> None:
    """Make tasks ready again, from their beginning, that are failure, crashed or cancelled."""

    def again(conn: db.Connection, id: int) -> str:
        tasks_module.retry(conn, id, reset_failure_count=reset_failure_count)
        # A parent goes on with its parts; anything else waits to be claimed.
        return "started" if tasks_module.get(conn, id)["worker"] == tasks_module.ALL_NODES else "fresh"

    said = {"fresh": "is fresh again", "started": "is started again, with what of it had not succeeded"}
    each(ids, "retry", again, said, quiet=as_json).end(as_json)


@tasks.command()
@click.argument("ids", type=ID, nargs=-1, required=True)
@json_option
def resume(ids: Sequence[int], as_json: bool) -> None:
    """Make crashed tasks ready again, to go on from their checkpoints; their crashes are forgiven."""

    def again(conn: db.Connection, id: int) -> str:
        tasks_module.resume(conn, id)
        return "fresh"

    each(ids, "resume", again, {"fresh": "is fresh again"}, quiet=as_json).end(as_json)


@tasks.command()
@click.argument("ids", type=ID, nargs=-1, required=True)
@click.option("--wait", is_flag=True, help="Wait until those that run have stopped.")
@max_wait_option
@json_option
def cancel(ids: Sequence[int], wait: bool, max_wait: float | None, as_json: bool) -> None:
    """Call off tasks: at once where they have not started; else their workers are told to stop them."""
    said = {"cancelled": "is cancelled", "started": "is running: its worker is told to stop it"}
    done = each(ids, "cancel", tasks_module.cancel, said, quiet=as_json)
    running = [id for id, status in done.status.items() if status == "started"]
    if not running or not (wait or max_wait is not None):
        if running and not as_json:
            click.echo(f"Wait for their end: pgfleet tasks watch {' '.join(map(str, running))}", err=True)
        done.end(as_json)
        return
    rows = follow.until_ended(running, max_wait=max_wait, quiet=True)
    for id in running:
        done.status[id] = rows[id]["status"] if id in rows else "gone"
        if not as_json:
            click.echo(f"Task {id} is {done.status[id]}.")
    done.end(as_json)
    follow.require(running, rows, "cancelled")


@tasks.command()
@click.argument("ids", type=ID, nargs=-1)
@click.option("--type", "type_", multiple=True, help="All unfinished tasks of this type; repeatable.")
@max_wait_option
@json_option
def watch(ids: Sequence[int], type_: Sequence[str], max_wait: float | None, as_json: bool) -> None:
    """Follow tasks until all have ended. Exit code 0 only if all of them succeeded. JSON comes at the end."""
    if bool(ids) == bool(type_):
        raise click.UsageError("Say which tasks: their IDs, or --type.")
    ids = list(dict.fromkeys(ids))
    with connection("tasks watch") as conn:
        if type_:
            if unknown := sorted(set(type_) - {row["name"] for row in tasks_module.types(conn)}):
                raise UnknownType(f"Unknown task type: {', '.join(unknown)}")
            ids = tasks_module.unfinished(conn, type_, MOST_WATCHED + 1)
        elif missing := sorted(set(ids) - tasks_module.states(conn, ids).keys()):
            raise TaskNotFound(f"No task exists with ID: {', '.join(map(str, missing))}")
    if len(ids) > MOST_WATCHED:
        raise Failure(
            f"More than {MOST_WATCHED} tasks are too many to follow.",
            hint="Count what is left: pgfleet tasks list --status fresh --status started --limit 1.",
        )
    if not ids:
        click.echo(f"No task of type {', '.join(type_)} is unfinished.", err=True)
    rows = follow.until_ended(ids, max_wait=max_wait, quiet=as_json) if ids else {}
    if as_json:
        print_json(list(rows.values()))
    follow.require(ids, rows, "success")


def _listed(row: Mapping[str, Any]) -> dict[str, Any]:
    mine = {
        "next_run": row["run_at"] if row["status"] == "waiting" else None,
        "last_run": row["started_at"],
        "failures": row["failure_count"],
        "persistent": STORAGE,
    }
    return {title: {**row, **mine}[name] for name, title in COLUMNS.items()}


def _listed_memory(schedule: Mapping[str, Any]) -> dict[str, Any]:
    """A schedule that a worker keeps in its memory, in the place of the tasks that it makes none of."""
    row = for_table(schedule)
    mine = {
        "id": row["name"],
        "status": "started" if row["running"] else "waiting" if row["next_due"] else None,
        "next_run": row["next_due"],
        "last_run": row["last_run_at"],
        "persistent": MEMORY,
    }
    return {title: {**row, **mine}.get(name) for name, title in COLUMNS.items()}
