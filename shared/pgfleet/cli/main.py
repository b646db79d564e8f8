"""``pgfleet``: finds the subcommand, loads it alone, and turns our errors into words and an exit code.

Exit codes: 0 it did what was asked, 1 it did not, 2 it was asked wrongly.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import os
import signal
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click
import psycopg

from pgfleet import __version__
from pgfleet.cli.failure import Failure
from pgfleet.errors import PgfleetError

#: The entry-point group by which other packages' commands join.
GROUP = "pgfleet.commands"

OWN = {
    name: EntryPoint(name, f"pgfleet.cli.{name}:{name}", GROUP)
    for name in ("events", "migrate", "schedules", "settings", "tasks", "token", "types", "up", "workers")
    if importlib.util.find_spec(f"pgfleet.cli.{name}")
}

#: For a source tree on PYTHONPATH, which has no entry points.
UNINSTALLED = {
    "api": EntryPoint("api", "pgfleet_api.command:api", GROUP),
    "worker": EntryPoint("worker", "pgfleet_worker.command:worker", GROUP),
}


class Fleet(click.Group):
    """The group of all commands. ``pgfleet worker`` imports neither Flask nor the tables of ``pgfleet tasks``."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        _fill_standard_streams()
        return super().main(*args, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*OWN, *UNINSTALLED, *entry_points(group=GROUP).names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        point = OWN.get(cmd_name) or _joined(cmd_name)
        return None if point is None else _load(point)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        found = super().resolve_command(ctx, args)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # run.py holds it back until all is imported
        return found

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (PgfleetError, psycopg.Error) as error:
            raise Failure.of(error) from error
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise Failure("What this prints can't be written: no space is left.") from error
        except UnicodeEncodeError as error:
            if not 0xDC80 <= ord(error.object[error.start]) <= 0xDCFF:  # what Python makes of bytes that are no UTF-8
                raise
            given = error.object.encode(errors="backslashreplace").decode()
            raise click.UsageError(f'Not UTF-8: "{given[:200]}".') from error


def _fill_standard_streams() -> None:
    """Where one was closed, the next file or socket to be opened would be taken for it: put the null device there."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # the lowest number that is free is taken
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def _joined(name: str) -> EntryPoint | None:
    return next(iter(entry_points(group=GROUP, name=name)), UNINSTALLED.get(name))


def _load(point: EntryPoint) -> click.Command:
    try:
        command = point.load()
    except ModuleNotFoundError as error:
        package, missing = point.module.partition(".")[0], error.name or ""
        if missing.startswith("pgfleet") and missing not in (package, point.module):
            raise  # a fault of ours, not an extra that was left out
        return _left_out(point.name, missing)
    if not isinstance(command, click.Command):
        raise PgfleetError(f"{point.value} in the entry points {GROUP} is no click command.")
    return command


def _left_out(name: str, missing: str) -> click.Command:
    """What stands in for a command whose packages were not installed: it is listed, and says what to install."""

    def refuse(**_: Any) -> None:
        raise PgfleetError(
            f"`pgfleet {name}` needs the package {missing}, which is not installed.",
            hint=f'Install it: pip install "pgfleet[{name}]".',
        )

    return click.Command(
        name,
        callback=refuse,
        params=[click.Argument(["words"], nargs=-1, type=click.UNPROCESSED)],
        short_help=f"(not installed: {missing} is missing)",
        context_settings={"ignore_unknown_options": True},
        add_help_option=False,
    )


@click.command(cls=Fleet, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, message="pgfleet %(version)s")
def main() -> None:
    """A task fleet on nothing but Postgres."""


if __name__ == "__main__":
    main(prog_name="pgfleet")
