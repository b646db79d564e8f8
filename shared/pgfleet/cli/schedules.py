"""``pgfleet schedules …``: work that starts by itself; look at it, make it, stop it, start it by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

import click

from pgfleet import db
from pgfleet import schedules as schedules_module
from pgfleet.cli import schedule_rows as rows_module
from pgfleet.cli.database import connection
from pgfleet.cli.failure import Failure
from pgfleet.cli.moments import length, lengths, moments
from pgfleet.cli.output import json_option, print_fields, print_json, print_table
from pgfleet.errors import RunUnfinished, ScheduleNotFound
from pgfleet.schedules import CatchUp, Overlap, Schedule, Trigger
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


@schedules.command("list")
@click.option("--group", help="Only this group's.")
@click.option("--type", "type_", help="Only those that make tasks of this type.")
@click.option("--enabled/--disabled", default=None, help="Only those that are, or are not.")
@click.option("--stale", is_flag=True, help="Only those that code declared and no live worker declares any more.")
@click.option("--offset", type=click.IntRange(0), default=0, show_default=True)
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
@click.argument("name")
@click.option("--type", "type_", required=True, help="The type of the tasks that it makes.")
@click.option("--data", help='Their data: any text, JSON by habit; "-" reads it from stdin.')
@click.option("--every", multiple=True, callback=lengths, metavar="LENGTH", help="30s, 15m, 1h, 1d; repeatable.")
@click.option(
    "--fixed-delay", is_flag=True, help="--every counts from the end of a run, not from due time to due time."
)
@click.option("--cron", multiple=True, metavar="EXPRESSION", help='"0 2 * * *", @hourly; repeatable.')
@click.option("--tz", default="UTC", show_default=True, help="What --cron is read in: Europe/Stockholm.")
@click.option("--event", multiple=True, metavar="NAME", help="Whenever this event is emitted; repeatable.")
@click.option(
    "--at", multiple=True, callback=moments, metavar="TIME", help="Once, at this time (ISO 8601); repeatable."
)
@click.option("--after", multiple=True, callback=lengths, metavar="LENGTH", help="Once, so long from now; repeatable.")
@click.option(
    "--overlap", type=click.Choice(["skip", "queue", "allow"]), default="skip", show_default=True,
    help="What becomes of a due time while a run is unfinished.",
)  # fmt: skip
@click.option(
    "--catch-up", type=click.Choice(["none", "once", "all"]), default="once", show_default=True,
    help="What becomes of due times that nobody was there to fire.",
)  # fmt: skip
@click.option("--catch-up-limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@click.option("--priority", type=click.IntRange(-(2**31), 2**31 - 1), default=0, show_default=True)
@click.option("--max-retries", type=click.IntRange(0, 1000), help="Default: its type's.")
@click.option("--retry-delay", callback=length, metavar="LENGTH", help="Before the first retry; default: its type's.")
@click.option("--timeout", callback=length, metavar="LENGTH", help="How long an attempt may take; default: its type's.")
@click.option("--node", help="Only this server's workers take its runs.")
@click.option("--all-nodes", is_flag=True, help="Each run is one task for each live node.")
@click.option("--group", default="default", show_default=True)
@click.option("--description", default="")
@click.option(
    "--user",
    "created_by",
    type=click.IntRange(0, MAX_BIGINT),
    default=0,
    show_default=True,
    help="Whom its runs belong to; 0: nobody.",
)
@click.option("--disabled", is_flag=True, help="Not enabled yet.")
@click.option("--replace", is_flag=True, help="Where there is one of this name, make it so.")
@json_option
def add(
    name: str,
    type_: str,
    data: str | None,
    every: list[timedelta],
    fixed_delay: bool,
    cron: Sequence[str],
    tz: str,
    event: Sequence[str],
    at: list[datetime],
    after: list[timedelta],
    overlap: Overlap,
    catch_up: CatchUp,
    catch_up_limit: int,
    priority: int,
    max_retries: int | None,
    retry_delay: timedelta | None,
    timeout: timedelta | None,
    node: str | None,
    all_nodes: bool,
    group: str,
    description: str,
    created_by: int,
    disabled: bool,
    replace: bool,
    as_json: bool,
) -> None:
    """Make the schedule NAME. Any of its triggers starts it; without one it is started by hand."""
    if fixed_delay and not every:
        raise click.UsageError("--fixed-delay says how --every counts: give one.")
    if node is not None and all_nodes:
        raise click.UsageError("--node and --all-nodes exclude each other.")
    triggers = [
        *(Trigger.interval(one, fixed_delay=fixed_delay) for one in every),
        *(Trigger.crontab(one) for one in cron),
        *(Trigger.on(one) for one in event),
        *(Trigger.once(at=one) for one in at),
        *(Trigger.once(after=one) for one in after),
    ]
    schedule = Schedule(
        name,
        type_,
        tuple(triggers),
        data=sys.stdin.read() if data == "-" else data,
        group=group,
        description=description,
        created_by=created_by,
        priority=priority,
        enabled=False if disabled else None,
        max_retries=max_retries,
        retry_delay=retry_delay,
        timeout=timeout,
        node=node,
        all_nodes=all_nodes,
        overlap=overlap,
        catch_up=catch_up,
        catch_up_limit=catch_up_limit,
        time_zone=tz,
    )
    with connection("schedules add") as conn:
        with conn.transaction():
            put = schedules_module.put(conn, schedule)
            if put == "changed" and not replace:  # the transaction takes it back
                raise Failure(
                    f'A schedule is called "{name}" already, and is another.',
                    hint=f'Look at it: pgfleet schedules show "{name}". Change it: --replace.',
                )
        state = schedules_module.get(conn, name)
    if as_json:
        print_json({**rows_module.of_storage(state), "put": put})
        return
    due = f", due {state.next_due.isoformat(sep=' ', timespec='seconds')}" if state.next_due else ""
    click.echo(f"Schedule {name} is {put}{due}.")


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
@click.option("--offset", type=click.IntRange(0), default=0, show_default=True)
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
