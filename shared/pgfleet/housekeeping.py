"""Retention: finished tasks go when they are old enough, with their history and files; so does what nobody will ever want.

Each function is one step that whoever likes may run: the fleet's own schedules, ``pgfleet tasks purge``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pgfleet import db, leftovers, sql, volume
from pgfleet.leftovers import Leftover
from pgfleet.settings import Settings

#: How the names of the fleet's own begin: its schedules, which are also the types of their runs.
RESERVED = "pgfleet."
PURGE = f"{RESERVED}purge"
SWEEP = f"{RESERVED}sweep"
NAMES = (PURGE, SWEEP)

#: The statuses in which a task may be purged.
FINISHED = ("success", "failure", "crashed", "cancelled")

#: Tasks looked at, and files asked about, in one statement.
STEP = 1000

#: How long a file without a row is let alone: its publisher may be slow, and clocks differ.
SLACK = timedelta(hours=1)


@dataclass(frozen=True)
class Purged:
    """What a step took: how many tasks of each status, the files to remove, and where the next step goes on."""

    tasks: dict[str, int]
    files: list[str]
    reached: int | None


@dataclass(frozen=True)
class Removed:
    """Files removed, and those that could not be: (name, why). The latter have no row any more, so a sweep takes them."""

    names: list[str]
    failed: list[tuple[str, str]]


@dataclass(frozen=True)
class Swept:
    """What a step of a sweep removed, and what it could not: (name, why); ``reached`` is the last name it looked at."""

    files: list[Leftover]
    failed: list[tuple[str, str]]
    reached: str


def terms(settings: Settings) -> dict[str, timedelta]:
    """How long tasks of each status are kept; those kept for ever are left out."""
    seconds = {status: getattr(settings, f"keep_{status}") for status in FINISHED}
    return {status: timedelta(seconds=keep) for status, keep in seconds.items() if keep}


def purge_step(conn: db.Connection, keep: Mapping[str, timedelta], *, after: int = 0, quantity: int = STEP) -> Purged:
    """Delete what is older than ``keep`` says for its status, of the ``quantity`` tasks behind the id ``after``.

    Remove the files it answers with once that is committed. Raises :class:`~pgfleet.errors.InvalidTask` for a status
    in which a task isn't finished.
    """
    arguments = {"statuses": list(keep), "older_than": list(keep.values()), "after": after, "quantity": quantity}
    row = db.call(conn, sql.queries("housekeeping")["purge"], **arguments).fetchone()
    assert row is not None  # noqa: S101 - a function always answers one row
    reached, tasks, files = row
    return Purged(tasks, files, reached)


def purgeable(conn: db.Connection, keep: Mapping[str, timedelta]) -> tuple[dict[str, int], int]:
    """What a whole walk of :func:`purge_step` would take now: (tasks of each status, files). Changes nothing."""
    arguments = {"statuses": list(keep), "older_than": list(keep.values())}
    rows = db.call(conn, sql.queries("housekeeping")["purgeable"], **arguments).fetchall()
    return {status: tasks for status, tasks, _ in rows}, sum(files for _, _, files in rows)


def newest(conn: db.Connection) -> int:
    """The highest id of a task: how far a walk has to go at most."""
    row = db.call(conn, sql.queries("housekeeping")["newest"]).fetchone()
    return int(row[0]) if row else 0


def remove(folder: Path, names: Sequence[str]) -> Removed:
    """Remove the files of purged tasks from the volume ``folder``."""
    done = Removed([], [])
    if not names:
        return done
    try:
        with leftovers.opened(folder) as volume_:
            for name in names:
                try:
                    if leftovers.remove(volume_, name):
                        done.names.append(name)
                except (volume.VolumeError, ValueError) as error:
                    done.failed.append((name, str(error)))
    except volume.VolumeError as error:
        done.failed.extend((name, str(error)) for name in names)
    return done


def sweep(conn: db.Connection, folder: Path, *, slack: timedelta = SLACK, after: str = "") -> Iterator[Swept]:
    """Remove from the volume ``folder`` what nobody will ever want; answers, after each step, what has been removed.

    It goes by name, and begins behind ``after``.

    Never touched: what a worker may be writing or publishing, whatever has another name than exports have, and
    anything younger than ``slack``. Nothing at all until the fleet's mark has stood on the volume for that long: another
    fleet that shares it has then set its own. Raises :class:`~pgfleet.volume.VolumeError`, of which
    :class:`~pgfleet.leftovers.ForeignVolume` says that there is one.
    """
    queries = sql.queries("housekeeping")
    fleet = db.call(conn, queries["fleet"]).fetchone()
    assert fleet is not None  # noqa: S101 - the migration has made it
    with leftovers.opened(folder) as volume_:
        before = datetime.now(UTC) - slack
        if leftovers.mark(volume_, fleet[0]) > before:
            return
        files = (file for file in leftovers.find(volume_, before) if file.name > after)
        found = iter(sorted(files, key=lambda file: file.name))
        while some := list(itertools.islice(found, STEP)):
            # After the look at the volume: what has come to be wanted since then is seen.
            asked = db.call(
                conn,
                queries["orphaned"],
                names=[file.name for file in some],
                written=[file.written for file in some],
                task_ids=[file.attempt and file.attempt[0] for file in some],
                attempts=[file.attempt and file.attempt[1] for file in some],
                slack=slack,
            )
            orphans = {row[0] for row in asked}
            done = Swept([], [], some[-1].name)
            for file in some:
                try:
                    if file.name in orphans and leftovers.remove(volume_, file.name):
                        done.files.append(file)
                except (volume.VolumeError, ValueError) as error:  # one that can't go must not keep the others
                    done.failed.append((file.name, str(error)))
            yield done
