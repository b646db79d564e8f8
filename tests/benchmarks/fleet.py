"""pgfleet's side of a benchmark: a backlog, real worker processes, and what the rows say of the run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from pgfleet import tasks
from pgfleet.settings import Settings
from tests.benchmarks.processes import BenchmarkFailed, Child, children, module
from tests.benchmarks.server import Database, Server
from tests.support.database import environment

#: A worker's concurrency where nothing else is said: the setting's default.
CONCURRENCY = 10
#: Tasks in one create_tasks call while a backlog is made.
BULK = 10_000


@dataclass(frozen=True)
class Drained:
    """A backlog worked off: ``rate`` from the first claim to the last settle by the rows' own times."""

    n: int
    seconds: float
    complete: bool
    #: From the start of the processes until this process saw the end: the check on ``seconds``.
    wall: float
    #: How often it looked, for what counts commits.
    looks: int

    @property
    def rate(self) -> float:
        return self.n / self.seconds if self.seconds else 0.0


def settings(database: Database, **overrides: Any) -> Settings:
    """An operator's settings with everything at its default; the log says only what went wrong."""
    return Settings(**{"database_url": database.url, "node": "bench", "log_level": "warning", **overrides})


def register(database: Database, *types: str) -> None:
    """Make the types known before a worker does."""
    with database.connect() as conn:
        for name in types:
            conn.execute("select register_type(%s)", [name])


def backlog(database: Database, n: int, *, type: str = "noop", created_by: int = 0) -> int:
    """Make ``n`` tasks as any client would make many, and settle down; answers the last id."""
    register(database, type)
    last = 0
    with database.connect() as conn:
        for at in range(0, n, BULK):
            last = tasks.create_many(conn, type, [None] * min(BULK, n - at), created_by=created_by)[-1]
    database.settle_down()
    return last


@contextmanager
def standing(server: Server, n: int, *, type: str = "noop", created_by: int = 0) -> Iterator[tuple[Database, int]]:
    """A database of its own with such a backlog, and its last id; made once a run, copied for each round."""
    make = partial(backlog, n=n, type=type, created_by=created_by)
    with server.copy((type, created_by, n), make) as (database, last):
        yield database, last


@contextmanager
def workers(
    database: Database, count: int = 1, *, types: str = "noop", concurrency: int = CONCURRENCY,
    handlers: str = "tests.benchmarks.handlers", env: Mapping[str, str] | None = None, **overrides: Any,
) -> Iterator[list[Child]]:  # fmt: skip
    """``count`` real worker processes."""
    given = {k: v for k, v in environment(settings(database, **overrides)).items() if k.startswith("PGFLEET_")}
    arguments = ["worker", "--handlers", handlers, "--types", types, "--concurrency", concurrency]
    line = module("pgfleet.cli.main", *arguments)
    with children([line] * count, env={**given, **(env or {})}) as started:
        yield started


def wait_registered(database: Database, count: int, started: list[Child], timeout: float = 60.0) -> None:
    """Wait until ``count`` workers live and all of them sleep."""
    deadline = time.monotonic() + timeout
    with database.connect() as conn:
        while True:
            row = conn.execute("select count(*) from workers where lost_at is null and sleeping").fetchone()
            if row and row[0] >= count:
                return
            for child in started:
                child.check()
            if time.monotonic() > deadline:
                raise BenchmarkFailed(f"of {count} workers {row and row[0]} sleep after {timeout:g} s")
            time.sleep(0.05)


def watch(database: Database, last: int, started: list[Child], seconds_max: float, *, began: float) -> Drained:
    """Wait until every task up to ``last`` is settled, or ``seconds_max`` have passed; answers what the rows say."""
    looks = 0
    complete = False
    with database.connect() as conn:
        while time.monotonic() - began < seconds_max:
            # The last task alone, by its key: a look for any unfinished one would walk the dead entries, and disturb.
            row = conn.execute("select status from tasks where id = %s", [last]).fetchone()
            looks += 1
            if row and row[0] == "success":
                left = conn.execute("select exists (select from tasks where status <> 'success')").fetchone()
                looks += 1
                if left and not left[0]:
                    complete = True
                    break
            for child in started:
                child.check()
            time.sleep(0.02)
        wall = time.monotonic() - began
        row = conn.execute(
            "select count(*), extract(epoch from max(updated_on) - min(started_at))::float8,"
            " count(*) filter (where attempt <> 1) from tasks where status = 'success'"
        ).fetchone()
    assert row is not None
    if row[2]:
        raise BenchmarkFailed(f"{row[2]} tasks took more than one attempt")
    return Drained(int(row[0]), float(row[1] or 0.0), complete, wall, looks + 1)


def drain(database: Database, last: int, *, processes: int = 1, seconds_max: float = 120.0, **options: Any) -> Drained:
    """Work the backlog off with real worker processes, started now."""
    began = time.monotonic()
    with workers(database, processes, **options) as started:
        return watch(database, last, started, seconds_max, began=began)


def limit(database: Database, last: int, *, seconds_max: float = 120.0) -> Drained:
    """Work the backlog off with the bare loop of ``limit.py``."""
    began = time.monotonic()
    with children([module("tests.benchmarks.limit", database.url)]) as started:
        return watch(database, last, started, seconds_max, began=began)
