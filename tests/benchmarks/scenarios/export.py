"""One reader's 1,000,000 books exported by a worker, against ``psql \\copy`` of the same query (``export.py``)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pgfleet.embedded import find_binaries
from tests.benchmarks import export
from tests.benchmarks.harness import PGFLEET, Bench, Result


def run(bench: Bench) -> Result:
    result, rows = Result(), bench.size(1_000_000, 20_000)
    with bench.server.database() as database, tempfile.TemporaryDirectory() as folder:
        psql = find_binaries(None) / "psql"
        found = export.run(database.url, Path(folder), rows=rows, psql=psql, rounds=bench.rounds())
    result.detail = found
    result.add(PGFLEET, f"export of {rows:,} books", found["worker_rows_per_s"], "rows/s")
    result.add("psql \\copy", f"export of {rows:,} books", found["psql_rows_per_s"], "rows/s")
    result.add(PGFLEET, "of psql's rate", found["ratio"], "×", target="≥ 0.7", reached=lambda v: v >= 0.7)
    result.add(PGFLEET, "peak memory", found["peak_mb"], "MB", target="< 70", reached=lambda v: v < 70)
    more = found["peak_mb"] - found["peak_mb_10000_rows"]
    result.add(PGFLEET, "above an export of 10,000 books", more, "MB", target="≤ 5", reached=lambda v: v <= 5)
    rates = {PGFLEET: [found["worker_rows_per_s"]], "psql \\copy": [found["psql_rows_per_s"]]}
    result.bars(f"{rows:,} books", "rows/s", rates)
    return result
