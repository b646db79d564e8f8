"""``pgfleet events …``: tell the fleet that something has happened."""

from __future__ import annotations

import json
import sys

import click

from pgfleet import schedules
from pgfleet.cli.database import connection
from pgfleet.cli.output import json_option, print_json


@click.group()
def events() -> None:
    """Events: emit."""


@events.command()
@click.argument("name")
@click.option("--payload", help='JSON, for the tasks it makes; "-" reads it from stdin.')
@json_option
def emit(name: str, payload: str | None, as_json: bool) -> None:
    """Start every enabled schedule with a trigger for event NAME; prints how many tasks that made."""
    text = sys.stdin.read() if payload == "-" else payload
    try:
        value = None if text is None else json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"expected JSON: {error}.", param_hint="'--payload'") from None
    with connection("events emit") as conn:
        made = schedules.emit(conn, name, value)
        held = schedules.is_stopped(conn)
    if as_json:
        print_json({"tasks": made, "held": held and not made})
        return
    click.echo(made)
    if held:
        click.echo("Firing is stopped, the event is held. Let it go on: pgfleet schedules start.", err=True)
    elif not made:
        click.echo(f"No enabled schedule waits for {name}. See which do what: pgfleet schedules list.", err=True)
