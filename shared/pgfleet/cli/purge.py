"""``pgfleet tasks purge``: delete old finished tasks now, whatever the fleet's own retention is."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import click

from pgfleet import housekeeping, tasks
from pgfleet import settings as settings_module
from pgfleet.cli.database import connection
from pgfleet.cli.failure import Failure
from pgfleet.cli.moments import length
from pgfleet.cli.output import json_option, print_json

#: Seconds between two steps: the queue comes first.
REST = 0.05


@click.command()
@click.option("--older-than", callback=length, required=True, metavar="AGE", help="Since its end: 90s, 12h, 30d.")
@click.option(
    "--status",
    "statuses",
    type=click.Choice(tasks.STATUSES),
    multiple=True,
    required=True,
    help=f"Only these, of {', '.join(housekeeping.FINISHED)}; repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Count only; change nothing.")
@json_option
def purge(older_than: timedelta, statuses: Sequence[str], dry_run: bool, as_json: bool) -> None:
    """Delete finished tasks with their history and files. A task for all nodes goes with its parts, or stays with them."""
    unfinished = [status for status in statuses if status not in housekeeping.FINISHED]
    if unfinished:
        raise Failure(
            f"Tasks that are {' or '.join(unfinished)} can't be purged: they are not finished.",
            hint="Call them off first: pgfleet tasks cancel ID. Finished are " + ", ".join(housekeeping.FINISHED) + ".",
        )
    keep = dict.fromkeys(statuses, older_than)
    counts: Counter[str] = Counter(dict.fromkeys(statuses, 0))
    left: list[tuple[str, str]] = []
    with connection("tasks purge") as conn:
        if dry_run:
            found, files = housekeeping.purgeable(conn, keep)
            counts.update(found)
        else:
            folder, after, files = settings_module.from_env().export_dir, 0, 0
            while True:
                step = housekeeping.purge_step(conn, keep, after=after)
                removed = housekeeping.remove(folder, step.files)
                counts.update(step.tasks)
                files += len(removed.names)
                left += removed.failed
                if step.reached is None:
                    break
                after = step.reached
                time.sleep(REST)
    if as_json:
        print_json({"tasks": counts, "files": files, "dry_run": dry_run})
    else:
        each = ", ".join(f"{number} {status}" for status, number in counts.items())
        click.echo(f"{'Would purge' if dry_run else 'Purged'} {counts.total()} tasks ({each}) and {files} files.")
    if left:
        name, why = left[0]
        raise Failure(
            f"{len(left)} files of purged tasks could not be removed.",
            f"{name}: {why}",
            "The next sweep of a worker that can reach the volume removes them.",
        )
