"""``pgfleet schedules add``: all that can be said of a schedule, in options."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime, timedelta

import click

from pgfleet import schedules
from pgfleet.cli import schedule_rows as rows_module
from pgfleet.cli.database import connection
from pgfleet.cli.failure import Failure
from pgfleet.cli.moments import length, lengths, moments
from pgfleet.cli.output import json_option, print_json
from pgfleet.schedules import CatchUp, Overlap, Schedule, Trigger
from pgfleet.tasks import MAX_BIGINT


@click.command()
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
            put = schedules.put(conn, schedule)
            if put == "changed" and not replace:  # the transaction takes it back
                raise Failure(
                    f'A schedule is called "{name}" already, and is another.',
                    hint=f'Look at it: pgfleet schedules show "{name}". Change it: --replace.',
                )
        state = schedules.get(conn, name)
    if as_json:
        print_json({**rows_module.of_storage(state), "put": put})
        return
    due = f", due {state.next_due.isoformat(sep=' ', timespec='seconds')}" if state.next_due else ""
    click.echo(f"Schedule {name} is {put}{due}.")
