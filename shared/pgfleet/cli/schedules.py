"""``pgfleet schedules …``: work that starts by itself; look at it, make it, stop it, start it by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click

from pgfleet import db
from pgfleet import schedules as schedules_module
from pgfleet.cli import schedule_rows as rows_module
from pgfleet.cli.database import connection
from pgfleet.cli.failure import Failure
from pgfleet.cli.output import json_option, print_fields, print_json, print_table
from pgfleet.cli.schedule_add import add
from pgfleet.errors import RunUnfinished, ScheduleNotFound
from pgfleet.tasks import MAX_BIGINT

COLUMNS = (
    "name", "type", "triggers", "enabled", "next_due", "last_run_at", "last_status", "running", "successes", "failures",
    "skipped", "storage", "stale",
)  # fmt: skip
RUN_COLUMNS = ("id", "status", "due_at", "created_at", "started_at", "updated_on", "attempt", "worker", "error")

SEE = "See which exist: pgfleet schedules list."

_names = click.argument("names", metavar="NAME…", nargs=-1, required=True)


@click.group()
def schedules() -> None:
    """Schedules: list, show, add, remove, enable, disable, trigger, runs; stop and start them all."""


schedules.add_command(add)


@schedules.command("list")
@click.option("--group", help="Only this group's.")
@click.option("--type", "type_", help="Only those that make tasks of this type.")
@click.option("--enabled/--disabled", default=None, help="Only those that are, or are not.")
@click.option("--stale", is_flag=True, help="Only those that code declared and no live worker declares any more.")
@click.option("--offset", type=click.IntRange(0, MAX_BIGINT), default=0, show_default=True)
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@json_option
def list_(
    group: str | None, type_: str | None, enabled: bool | None, stale: bool, offset: int, limit: int, as_json: bool
) -> None:
    """Show the schedules, by name, then those in workers' memory, with their next and last runs."""
    with connection("schedules list") as conn:
        found = schedules_module.find(
            conn, group=group, type=type_, enabled=enabled, stale=stale or None, offset=offset, limit=limit
        )
        stopped = schedules_module.is_stopped(conn)
        in_memory = [] if stale else rows_module.of_memory(conn)
    wanted = {"group": group, "type": type_, "enabled": enabled}
    in_memory = [row for row in in_memory if all(value in (None, row[name]) for name, value in wanted.items())]
    listed = [rows_module.of_storage(state) for state in found.schedules]
    listed += in_memory[max(0, offset - found.total) :][: limit - len(listed)]
    total = found.total + len(in_memory)
    if as_json:
        print_json({"list": listed, "offset": offset, "pageSize": limit, "totalSize": total, "stopped": stopped})
        return
    shown = [rows_module.for_table(row) for row in listed]
    print_table(COLUMNS, shown, empty="No schedule matches. Make one: pgfleet schedules add.")
    if listed and (total > offset + len(listed) or offset):
        click.echo(f"{offset + 1} to {offset + len(listed)} of {total}; more: --offset, --limit.", err=True)
    if stopped:
        click.echo("All firing is stopped. Let it go on: pgfleet schedules start.", err=True)


@schedules.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show all of one schedule."""
    with connection("schedules show") as conn:
        try:
            rows = [rows_module.of_storage(schedules_module.get(conn, name))]
        except ScheduleNotFound as error:
            rows = [row for row in rows_module.of_memory(conn) if row["name"] == name]
            if not rows:
                raise Failure(error.message, hint=SEE) from error
    if as_json:
        print_json(rows[0] if rows[0]["storage"] == rows_module.STORAGE else rows)
        return
    for number, row in enumerate(rows):
        if number:
            click.echo()
        print_fields(rows_module.for_table(row))


@schedules.command()
@_names
@json_option
def remove(names: Sequence[str], as_json: bool) -> None:
    """Forget schedules; their runs stay, and run on. All of them or, where a name is wrong, none."""
    _each("remove", names, schedules_module.remove, "removed", as_json)


@schedules.command()
@_names
@json_option
def enable(names: Sequence[str], as_json: bool) -> None:
    """Let due times and events start them again, from now on."""
    _each("enable", names, schedules_module.enable, "enabled", as_json)


@schedules.command()
@_names
@json_option
def disable(names: Sequence[str], as_json: bool) -> None:
    """Let due times and events pass them by. They can still be triggered."""
    _each("disable", names, schedules_module.disable, "disabled", as_json)


@schedules.command()
@click.argument("name")
@json_option
def trigger(name: str, as_json: bool) -> None:
    """Start a run now, whatever its clock, and print the task's id. Refused while one is waiting or going."""
    with _stored("trigger", name) as conn:
        try:
            id = schedules_module.trigger(conn, name)
        except RunUnfinished as error:
            hint = f'Look at it: pgfleet schedules runs "{name}" --limit 1. End it: pgfleet tasks cancel ID.'
            raise Failure(error.message, error.detail, hint) from error
    if as_json:
        print_json({"task_id": id})
    else:
        click.echo(id)


@schedules.command()
@click.argument("name")
@click.option("--offset", type=click.IntRange(0, MAX_BIGINT), default=0, show_default=True)
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@json_option
def runs(name: str, offset: int, limit: int, as_json: bool) -> None:
    """Show the tasks that a schedule has made, the newest first."""
    with _stored("runs", name) as conn:
        page = schedules_module.runs(conn, name, offset=offset, limit=limit)
    if as_json:
        print_json({"list": page.rows, "offset": page.offset, "pageSize": limit, "totalSize": page.total})
        return
    print_table(RUN_COLUMNS, page.rows, empty="It has not run yet.")
    last = page.offset + len(page.rows)
    if page.rows and (page.total > last or page.offset):
        click.echo(f"{page.offset + 1} to {last} of {page.total}; more: --offset, --limit.", err=True)


@schedules.command()
@json_option
def stop(as_json: bool) -> None:
    """Let nothing start by itself, in the whole fleet, until `start`. What runs, runs on; events are held."""
    with connection("schedules stop") as conn:
        schedules_module.stop(conn)
    if as_json:
        print_json({"stopped": True})
    else:
        click.echo("All firing is stopped. Let it go on: pgfleet schedules start.")


@schedules.command()
@json_option
def start(as_json: bool) -> None:
    """Undo `stop`: what came due meanwhile is caught up as each schedule says, and the events held come now."""
    with connection("schedules start") as conn:
        made = schedules_module.start(conn)
    if as_json:
        print_json({"stopped": False, "tasks": made})
    else:
        click.echo(f"Schedules fire. Tasks made by the events that were held: {made}.")


def _each(verb: str, names: Sequence[str], act: Callable[[db.Connection, str], None], done: str, as_json: bool) -> None:
    names = sorted(set(names))  # in one order, so that two who act on the same ones don't deadlock
    with _stored(verb, *names) as conn, conn.transaction():
        for name in names:
            act(conn, name)
    if as_json:
        print_json([{"name": name, "status": done} for name in names])
    else:
        for name in names:
            click.echo(f"Schedule {name} is {done}.")


@contextmanager
def _stored(verb: str, *names: str) -> Iterator[db.Connection]:
    """A connection. Where one of ``names`` is known to workers alone, the error says who keeps it in memory."""
    with connection(f"schedules {verb}") as conn:
        try:
            yield conn
        except ScheduleNotFound as error:
            for row in rows_module.of_memory(conn):
                if row["name"] in names:
                    raise Failure(
                        f'Schedule "{row["name"]}" is kept in the memory of a worker, out of reach from here.',
                        f"Of {row['worker']}.",
                        "It comes and goes with the worker's code. Look at it: pgfleet schedules list.",
                    ) from error
            raise Failure(error.message, error.detail, SEE) from error
