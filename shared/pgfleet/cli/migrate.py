"""``pgfleet migrate``: bring the schema up to date."""

from __future__ import annotations

import click

from pgfleet import migrate as migrations
from pgfleet import settings as settings_module
from pgfleet.cli.failure import Failure


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; exit with 1 where something is missing.")
def migrate(check: bool) -> None:
    """Bring the database's schema up to date."""
    settings = settings_module.from_env()
    plan = migrations.check(settings) if check else migrations.migrate(settings)
    names = ", ".join(step.name for step in plan.missing)
    if check and plan:
        raise Failure(f"Schema {settings.schema} lacks {names}.", hint="Apply them: pgfleet migrate.")
    click.echo(f"Applied to schema {settings.schema}: {names}." if plan else f"Schema {settings.schema} is up to date.")
