"""``pgfleet token``: a bearer token for development."""

from __future__ import annotations

from datetime import timedelta

import click

from pgfleet import settings as settings_module
from pgfleet import tokens


@click.command()
@click.option("--user", type=click.IntRange(1, tokens.MAX_ID), required=True, help="The user's id.")
@click.option("--role", help="For example admin; none: an ordinary reader.")
@click.option(
    "--hours", type=click.FloatRange(0, 87_600, min_open=True), default=24.0, show_default=True, help="It is valid."
)
def token(user: int, role: str | None, hours: float) -> None:
    """Print a bearer token, signed with PGFLEET_AUTH_SECRET_KEY. For development: BookLogr issues the real ones."""
    click.echo(tokens.mint(settings_module.from_env(), user, role=role, lifetime=timedelta(hours=hours)))
