"""``pgfleet api``."""

from __future__ import annotations

import click

from pgfleet import db, log, migrate
from pgfleet.settings import from_env


@click.command()
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0: any free one, see the log.")
@click.option("--threads", type=click.IntRange(1, 256), help="Requests to answer at once.")
def api(host: str | None, port: int | None, threads: int | None) -> None:
    """Serve the HTTP API, until SIGTERM or Ctrl-C."""
    settings = from_env(api_host=host, api_port=port, api_threads=threads)
    log.configure(settings)
    with db.connect(settings, "pgfleet api") as conn:
        migrate.require_current(conn, settings)
    from pgfleet_api.server import serve  # after the checks, which need none of it

    serve(settings)
