"""``pgfleet workers …``: who is at work, and what they are told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from pgfleet import db
from pgfleet import workers as workers_module
from pgfleet.cli.database import connection, max_wait_option, poll
from pgfleet.cli.failure import Failure
from pgfleet.cli.output import json_option, print_json, print_table
from pgfleet.errors import UnknownWorker

COLUMNS = ("id", "status", "node", "types", "concurrency", "running", "version", "started_at", "renewed_at")

#: Seconds between two looks at whether drained workers have ended.
PAUSE = 0.5

Row = dict[str, Any]

_names = click.argument("names", metavar="WORKER…", nargs=-1)
_all = click.option("--all", "all_", is_flag=True, help="All workers that are alive.")


@click.group()
def workers() -> None:
    """Workers: list, pause, resume, drain. WORKER is an id, a nickname, or the beginning of an id or UUID."""


@workers.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Show the workers, the oldest first. A worker is `lost` when it has not renewed its lease in time."""
    with connection("workers list") as conn:
        rows = workers_module.list_workers(conn)
    if as_json:
        print_json(rows)
    else:
        print_table(COLUMNS, rows, empty="No worker is registered. Start one: pgfleet worker.")


@workers.command()
@_names
@_all
@json_option
def pause(names: Sequence[str], all_: bool, as_json: bool) -> None:
    """Let workers take no more tasks; what they run, they finish."""
    _order("pause", names, all_, "takes no more tasks", as_json)


@workers.command()
@_names
@_all
@json_option
def resume(names: Sequence[str], all_: bool, as_json: bool) -> None:
    """Let paused workers take tasks again."""
    _order("work", names, all_, "takes tasks again", as_json)


@workers.command()
@_names
@_all
@click.option("--wait", is_flag=True, help="Wait until they have ended.")
@max_wait_option
@json_option
def drain(names: Sequence[str], all_: bool, wait: bool, max_wait: float | None, as_json: bool) -> None:
    """Let workers take no more tasks, finish what they have, and end."""
    told = _order("drain", names, all_, "finishes what it has, and ends", as_json)
    if told and (wait or max_wait is not None):
        _wait(told, max_wait, quiet=as_json)


def _order(orders: workers_module.Orders, names: Sequence[str], all_: bool, said: str, as_json: bool) -> list[str]:
    """Tell them, all or, where a name is wrong, none; answers their ids."""
    if bool(names) == all_ or not all(names):
        raise click.UsageError("Say which workers: their names, or --all.")
    with connection(f"workers {orders}") as conn:
        rows = workers_module.list_workers(conn)
        told = [row["id"] for row in rows if row["status"] != "lost"] if all_ else _found(names, rows)
        done = [id for id in told if _tell(conn, id, orders, gone_is_fine=all_)]
        if as_json:
            print_json([row for row in workers_module.list_workers(conn) if row["id"] in done])
    if not as_json:
        for id in done:
            click.echo(f"Worker {id} {said}.")
    if not done:
        click.echo("No worker is alive.", err=True)
    return done


def _tell(conn: db.Connection, id: str, orders: workers_module.Orders, *, gone_is_fine: bool) -> bool:
    try:
        workers_module.order_worker(conn, id, orders)
    except UnknownWorker:
        if not gone_is_fine:
            raise
        return False  # it ended since it was listed
    return True


def _found(names: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """The ids of the workers meant, each once."""
    return list(dict.fromkeys(_meant(name, rows) for name in names))


def _meant(name: str, rows: Sequence[Row]) -> str:
    """The id of the one worker that ``name`` means: an id, else a live one's nickname, else how its id or UUID begins."""
    alive = [str(row["id"]) for row in rows if row["status"] != "lost"]
    for ids in (
        [id for id in alive if id == name],
        [id for id in alive if id.rpartition(":")[0] == name],
        [id for id in alive if id.startswith(name) or id.rpartition(":")[2].startswith(name)],
    ):
        if len(ids) > 1:
            raise Failure(f"{name!r} can mean {len(ids)} workers.", "\n".join(ids), "Say which by its id, or --all.")
        if ids:
            return ids[0]
    if name in (row["id"] for row in rows):
        raise Failure(f"Worker {name} is lost: it gave no sign of life for a lease.", hint="See its process's log.")
    raise UnknownWorker(f"No live worker is {name!r}.")


def _wait(ids: Sequence[str], max_wait: float | None, *, quiet: bool) -> None:
    """Until none of them is registered any more. Fails if one is lost before that, or after ``max_wait`` seconds."""
    left = list(ids)
    lost: list[str] = []

    def look(conn: db.Connection) -> bool:
        status = {row["id"]: row["status"] for row in workers_module.list_workers(conn)}
        for id in [id for id in left if status.get(id) in (None, "lost")]:
            left.remove(id)
            if id in status:
                lost.append(id)
            elif not quiet:
                click.echo(f"Worker {id} has ended.")
        return not left

    if not poll("workers drain", look, pause=PAUSE, max_wait=max_wait):
        raise Failure(
            f"{len(left)} of {len(ids)} workers had not ended after {max_wait:g} s.",
            "\n".join(left),
            "See what they run: pgfleet workers list; pgfleet tasks list --status started.",
        )
    if lost:
        raise Failure(
            f"{len(lost)} of {len(ids)} workers were lost before they had ended.",
            "\n".join(lost),
            "Others take over their tasks; see the processes' logs.",
        )
