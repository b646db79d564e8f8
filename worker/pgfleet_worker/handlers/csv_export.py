"""The export of one reader's books as CSV: the streaming core, free of tasks and workers.

Postgres makes the CSV (``sql/queries/export_books.sql``); here the bytes only pass through. Records end in LF, as COPY
writes them and not in RFC 4180's CRLF: every reader of CSV takes both, the file is byte for byte what
``psql \\copy`` makes, and no byte of it has to be looked at on its way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import errors as pg
from psycopg.sql import SQL, Literal

from pgfleet import sql, volume
from pgfleet.errors import DatabaseAway, PgfleetError
from pgfleet.tasks import MAX_BIGINT
from pgfleet_worker.handler import GiveUp, handler
from pgfleet_worker.outcome import Export
from pgfleet_worker.task import Task

#: Bytes gathered before a write. psycopg hands over a row at a time; 1,000,000 rows (175 MB) took 2.8 s so, and 3.4 s
#: when each went through a file object. A loop of our own over libpq saves 0.7 s of processor time but none on the
#: clock, which is Postgres's: not worth it.
CHUNK = 256 * 1024


class LibraryMissing(PgfleetError):
    """The database does not hold BookLogr's tables as its migrations make them."""


@dataclass(frozen=True)
class ExportFile:
    """A finished export, on the volume under its final name: ``rows`` are books, without the header line."""

    filename: str
    rows: int
    bytes: int
    sha256: str
    owner_id: int


def write_export(
    conn: psycopg.Connection[object],
    owner_id: int,
    volume_dir: Path,
    task_id: int,
    attempt: int,
    on_rows: Callable[[int], None] | None = None,
) -> ExportFile:
    """Write the books of ``owner_id`` to ``volume_dir`` and return what was written, durable and under its final name.

    The books are those of one moment: a single statement, in a transaction of its own where ``conn`` has none open.
    ``on_rows`` is told the books written so far every 256 KiB or so, and may raise to call the export off.
    Memory does not grow with the library. After any error nothing is left on the volume. Raises
    :class:`LibraryMissing`, :class:`pgfleet.volume.VolumeError`, and :class:`psycopg.Error` for faults of the database.
    """
    queries = sql.queries("export_books")
    statement = SQL(queries["copy"]).format(owner_id=Literal(owner_id))
    filename = volume.final_name()
    with volume.publish(volume_dir, temporary=volume.temporary_name(task_id, attempt), final=filename) as file:
        gathered = bytearray()
        with conn.transaction(), conn.cursor() as cursor:
            cursor.execute(queries["settings"])
            try:
                with cursor.copy(statement) as rows:
                    for written, row in enumerate(rows):  # the first is the header
                        gathered += row
                        if len(gathered) >= CHUNK:
                            file.write(gathered)
                            gathered.clear()
                            if on_rows is not None:
                                on_rows(written)
            except psycopg.ProgrammingError as error:
                if (error.sqlstate or "")[:2] != "42":  # syntax, names, types and rights
                    raise
                raise _library_missing(error) from error
            count = cursor.rowcount
        file.write(gathered)
    return ExportFile(filename, count, file.bytes, file.sha256, owner_id)


def _library_missing(error: psycopg.Error) -> PgfleetError:
    """Words, which a reader may see, for a table, a column or a right that is missing."""
    said = error.diag.message_primary
    hint = "An operator has to point PGFLEET_DATABASE_URL at BookLogr's own database."
    if isinstance(error, pg.UndefinedTable):
        return LibraryMissing("BookLogr's tables are not in this database.", detail=said, hint=hint)
    if isinstance(error, pg.InsufficientPrivilege):
        hint = "An operator has to GRANT SELECT ON books, notes to the worker's role."
        return LibraryMissing("BookLogr's tables may not be read.", detail=said, hint=hint)
    return LibraryMissing(
        "BookLogr's tables are not as this version expects them.",
        detail=said,
        hint="An operator has to bring BookLogr's migrations up to date.",
    )


@handler(
    "csv_export", description="Write a reader's books and notes to a CSV file on the shared volume.", for_readers=True
)
def csv_export(task: Task) -> Export:
    """Export the books of ``owner_id`` in the task's data; without one, those of its creator."""
    owner = owner_of(task)
    with task.connect() as conn:
        file = write_export(conn, owner, task.export_dir, task.id, task.attempt, Report(task, owner))
    return Export(file.filename, file.owner_id, file.rows, file.bytes, file.sha256)


class Report:
    """Tells the reader how far the export is; its call is ``on_rows`` of :func:`write_export`.

    The books are counted once a part of the file is written, over a second connection: where no index leads to an owner's
    books, counting them reads as much as exporting them, and most libraries are exported before anybody could ask.
    """

    def __init__(self, task: Task, owner_id: int) -> None:
        self._task = task
        self._owner_id = owner_id
        self._total: int | None = None

    def __call__(self, written: int) -> None:
        if self._total is None:
            self._total = self._count()
        self._task.progress(min(written, self._total), self._total or 1, "Writing the books")

    def _count(self) -> int:
        """How many there will be, more or less; 0 where that can't be told."""
        try:
            with self._task.connect() as conn:
                row = conn.execute(sql.queries("export_books")["count"], {"owner_id": self._owner_id}).fetchone()
        except (psycopg.Error, DatabaseAway):  # the export needs no more connections than its own
            return 0
        return int(row[0]) if row else 0


def owner_of(task: Task) -> int:
    """Whose books the task asks for. Raises :class:`GiveUp` where its data can't be understood."""
    try:
        data = task.data if task.text else {}
    except ValueError:
        data = None
    owner = data.get("owner_id", task.created_by) if isinstance(data, dict) else None
    if not isinstance(owner, int) or isinstance(owner, bool) or abs(owner) > MAX_BIGINT:
        raise GiveUp('The task\'s data must be a JSON object like {"owner_id": 1}, or nothing.')
    return owner
