"""The `export` benchmark: a worker's export of 1,000,000 books against ``psql \\copy`` of the same query.

Both write the same bytes to the same folder (the digests are compared); the worker besides takes their SHA-256,
flushes them to the disk and renames. They take turns, so that what else the machine does hits both. Memory is the peak
of a process that has imported what a worker imports and makes one export: VmHWM and not ru_maxrss, which a child
inherits at exec.

Reach: at least 70 % of psql's rows/s; under 70 MB, and at most 5 MB above a 10,000-row export.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
from psycopg.sql import SQL, Literal

from pgfleet import sql
from pgfleet_worker.handlers.csv_export import write_export

#: The readers made here; real ones have smaller ids. The second has SMALL books.
MANY_OWNER, FEW_OWNER, SMALL = 2_000_000_001, 2_000_000_002, 10_000

_BOOKS = """
insert into books (title, isbn, description, author, reading_status, current_page, total_pages, rating, owner_id,
                   created_on)
select 'The Book Number ' || n, '978' || lpad((n %% 1000000000)::text, 10, '0'),
       case when n %% 3 > 0 then 'A description, with a comma and "quotes", of number ' || n
                                 || ', about as long as those that catalogues have of real books.' end,
       'Author ' || n %% 5000, (array['Read', 'Currently reading', 'To be read', 'Did not finish'])[1 + n %% 4],
       n %% 400, 400, case when n %% 4 = 0 then (n %% 11) / 2.0 end, %(owner)s,
       timestamp '2025-01-01' + n * interval '1 s'
from generate_series(1, %(rows)s) as n
"""
_NOTES = """
insert into notes (book_id, content, quote_page)
select id, 'A note, on "' || title || E'",\\nof two lines 📚', current_page
from books where owner_id = %(owner)s and id %% 10 = 0
"""


def run(
    database_url: str, export_dir: Path, *, rows: int = 1_000_000, psql: Path | None = None, rounds: int = 3
) -> dict[str, Any]:
    """Load ``rows`` books into ``database_url``, measure, take them out again; makes BookLogr's tables where missing.

    ``psql`` is the client's binary, best from the server's own folder; by default the one on PATH.
    Returns medians: rows per second, their ratio, peak memory in MB (10^6 bytes), and whether the goals are reached.
    """
    client = psql or shutil.which("psql")
    if client is None:
        raise FileNotFoundError("psql is not on PATH; say where it is, it comes with the server")
    _load(database_url, rows)
    try:
        small = _in_a_process(database_url, export_dir, FEW_OWNER)
        ours, theirs = [], []
        for _ in range(rounds):
            seconds, digest = _psql(Path(client), database_url, export_dir)
            theirs.append(seconds)
            ours.append(_in_a_process(database_url, export_dir, MANY_OWNER))
            if (ours[-1]["sha256"], ours[-1]["rows"]) != (digest, rows):
                raise AssertionError(f"the worker and psql wrote different files: {ours[-1]}, psql's is {digest}")
    finally:
        _unload(database_url)
    worker = rows / statistics.median(made["seconds"] for made in ours)
    copy = rows / statistics.median(theirs)
    peak, least = max(made["peak_mb"] for made in ours), small["peak_mb"]
    return {
        "rows": rows,
        "bytes": ours[0]["bytes"],
        "worker_rows_per_s": round(worker),
        "psql_rows_per_s": round(copy),
        "ratio": round(worker / copy, 3),
        "peak_mb": round(peak, 1),
        "peak_mb_10000_rows": round(least, 1),
        "reached": worker >= 0.7 * copy and peak < 70 and peak - least <= 5,
    }


def _load(url: str, rows: int) -> None:
    _unload(url)
    with psycopg.connect(url, autocommit=True) as conn:
        for owner, count in ((MANY_OWNER, rows), (FEW_OWNER, SMALL)):
            conn.execute(_BOOKS, {"owner": owner, "rows": count})
            conn.execute(_NOTES, {"owner": owner})
        conn.execute("vacuum (analyze) books")
        conn.execute("vacuum (analyze) notes")
        conn.execute("checkpoint")


def _unload(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(sql.text("demo/library.sql"))
        # Without an index on notes.book_id, as in BookLogr, the foreign key's check would read all notes for each book.
        conn.execute("create index bench_notes_book_id on notes (book_id)")
        mine = "select id from books where owner_id in (%s, %s)"
        conn.execute(f"delete from notes where book_id in ({mine})", [MANY_OWNER, FEW_OWNER])
        conn.execute("delete from books where owner_id in (%s, %s)", [MANY_OWNER, FEW_OWNER])
        conn.execute("drop index bench_notes_book_id")


def _psql(psql: Path, url: str, folder: Path) -> tuple[float, str]:
    """(seconds, SHA-256) of the same query by ``\\copy``."""
    target = folder / "psql.csv"
    query = " ".join(line for line in sql.queries("export_books")["copy"].splitlines() if not line.startswith("--"))
    with psycopg.connect(url) as conn:
        command = SQL(query).format(owner_id=Literal(MANY_OWNER)).as_string(conn)
    command = "\\" + command.strip().replace("TO STDOUT", "TO '" + str(target).replace("'", "''") + "'")
    started = time.perf_counter()
    subprocess.run(
        [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", command],
        check=True,
        env={**os.environ, "PGCLIENTENCODING": "UTF8", "PGOPTIONS": "-c enable_nestloop=off"},
    )
    seconds = time.perf_counter() - started
    with target.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    target.unlink()
    return seconds, digest


def _in_a_process(url: str, folder: Path, owner: int) -> dict[str, Any]:
    """What :func:`_one_export` says, from a process of its own."""
    done = subprocess.run(
        [sys.executable, Path(__file__), url, folder, str(owner)],
        check=True, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _one_export(url: str, folder: Path, owner: int) -> dict[str, Any]:
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module("pgfleet_worker.command")
    started = time.perf_counter()
    with psycopg.connect(url) as conn:
        made = write_export(conn, owner, folder, task_id=owner, attempt=1)
    seconds = time.perf_counter() - started
    (folder / made.filename).unlink()
    figures = {"seconds": seconds, "peak_mb": _peak_bytes() / 1e6}
    return {**figures, "rows": made.rows, "bytes": made.bytes, "sha256": made.sha256}


def _peak_bytes() -> int:
    with contextlib.suppress(FileNotFoundError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


if __name__ == "__main__":
    print(json.dumps(_one_export(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
