"""``pgfleet up``: everything on this machine, and one export to show that it works."""

from __future__ import annotations

import os
from pathlib import Path

import click

from pgfleet import settings as settings_module
from pgfleet.cli.failure import Failure
from pgfleet.settings import Settings
from pgfleet.up.fleet import Options


@click.command()
@click.option("--once", is_flag=True, help="Stop everything after the export.")
@click.option(
    "--port", type=click.IntRange(1, 65535), help="The API's port; default: 8000 if it is free, else another."
)
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True, help="Worker processes.")
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where all of it is kept; default: PGFLEET_DIR, else .pgfleet.",
)
def up(once: bool, port: int | None, workers: int, folder: Path | None) -> None:
    """Start Postgres, the API and workers here, export the demo library, and serve until Ctrl-C."""
    from pgfleet.up import fleet as fleets
    from pgfleet.up import show

    settings, database_url = _settings(folder)
    options = Options(settings.dir, workers, port, database_url)
    exported = False
    try:
        with fleets.start(settings, options, _say) as fleet:
            done = fleet.export()
            for line in show.export(done, fleet.settings.export_dir / done.filename):
                click.echo(line)
            exported = True
            if not once:
                for line in show.next_steps(fleet, fleet.settings.dir, default=settings.dir == Settings.dir):
                    click.echo(line)
                fleet.serve()
    except KeyboardInterrupt:
        if not exported:
            raise Failure("Interrupted before it was up; everything is stopped.") from None
    _say("Stopped.")


def _settings(folder: Path | None) -> tuple[Settings, str | None]:
    """This process's settings, and the database it was given by the environment, if any."""
    given = os.environ.get("PGFLEET_DATABASE_URL") or None
    # With a database named, an up.json that a killed run left is not read.
    settings = settings_module.from_env(dir=folder, database_url=given or "embedded")
    if settings.auth_jwks_url:
        raise Failure(
            "PGFLEET_AUTH_JWKS_URL is set: the API would refuse the tokens that `up` makes for its own export.",
            hint="Unset it for `up`.",
        )
    return settings, given


def _say(text: str) -> None:
    # On standard error: standard output is for the export.
    click.echo(text, err=True)
