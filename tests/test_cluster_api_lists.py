"""Lists of the cluster scheduler API: tasks, schedules and what is in memory, found, sorted and counted together."""

from __future__ import annotations

from typing import Any

import pytest

from pgfleet import cluster, schedules, tasks
from pgfleet.schedules import Schedule, Trigger
from tests.support.cluster_api import names, put
from tests.support.database import Database
from tests.support.firing import HOURLY
from tests.support.fleet import WORKER, Connection, create, register, value


@pytest.fixture
def conn(database: Database) -> Connection:
    """A connection to a fleet with one worker, which takes jobs."""
    made = database.connect()
    register(made)
    return made


def test_filters_sorting_and_pages_hold_over_tasks_schedules_and_memory_together(conn: Connection, admin: Any) -> None:
    memory = [
        {"name": "refresh", "next_due": "2090-01-02T12:00:00+00:00", "failures": 2},
        {"name": "sweep", "status": "running", "last_run_at": "2026-01-01T00:00:00+00:00"},
    ]
    schedules.declare(conn, WORKER, names=[], in_memory=memory)
    for name, day in (("beta", 3), ("alpha", 1)):
        put(conn, Trigger.once(at=value(conn, f"select timestamptz '2090-01-0{day} 00:00+00'")), name=name)
    schedules.put(conn, Schedule("gamma", "csv_export"))
    schedules.disable(conn, "gamma")
    waiting = create(conn, run_at="2090-01-02 00:00+00")
    fresh = create(conn)
    kept, named = ["memory of refresh", "memory of sweep"], ["alpha", "beta", "gamma"]
    everything = [*kept, *named, fresh, waiting]
    assert names(admin) == (everything, 7)
    assert names(admin, "sortBy=itemId") == ([*kept, *named, waiting, fresh], 7)
    for limit in (1, 2, 3, 500):
        pages = [names(admin, f"limit={limit}&offset={offset}") for offset in range(0, 9, limit)]
        assert [one for page, _ in pages for one in page] == everything
        assert {total for _, total in pages} == {7}
    by_time = ["alpha", waiting, "memory of refresh", "beta"]
    found, total = names(admin, "sortBy=nextScheduledExecution")
    assert (found[:4], total) == (by_time, 7)
    assert names(admin, "sortBy=nextScheduledExecution:desc")[0][:4] == by_time[::-1]
    assert names(admin, "sortBy=nextScheduledExecution&offset=1&limit=2") == (by_time[1:3], 7)
    assert names(admin, "sortBy=lastExecutionDate:desc&limit=1") == (["memory of sweep"], 7)
    assert names(admin, "sortBy=failureCount:desc&limit=1") == (["memory of refresh"], 7)
    assert names(admin, "sortBy=taskType&limit=1") == (["gamma"], 7)
    assert names(admin, "sortBy=status")[0][0] == "gamma"  # CANCELLED, RUNNING, SCHEDULED, WAITING
    assert names(admin, "sortBy=status:desc")[0][0] == fresh
    assert names(admin, "status=SCHEDULED") == (["memory of refresh", "alpha", "beta", waiting], 4)
    assert names(admin, "status=SCHEDULED&type=job&limit=2") == (["alpha", "beta"], 3)
    assert names(admin, "status=CANCELLED") == (["gamma"], 1)
    assert names(admin, "type=csv_export") == (["gamma"], 1)
    assert names(admin, "status=RUNNING&type=sweep,job") == (["memory of sweep"], 1)
    assert names(admin, "status=FAILED") == ([], 0)
    assert names(admin, "type=job&offset=9223372036854775807") == ([], 4)


@pytest.mark.parametrize("analysed", [True, False])
def test_the_newest_of_very_many_tasks_are_found_by_their_ids_and_not_by_sorting_all(
    conn: Connection, analysed: bool
) -> None:
    many = 20_000
    conn.execute("alter table tasks set (autovacuum_enabled = off)")
    conn.execute(
        "insert into tasks (type, status, worker, started_at, attempt, created_by)"
        " select 'job', 'success', 'w', now(), 1, 1 from generate_series(1, %s)",
        [many],
    )
    put(conn, HOURLY)
    if analysed:
        conn.execute("analyze tasks")
    seen = "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relname = 'tasks'"

    def read(sort: str, offset: int = 0, *, descending: bool = True) -> int:
        """How many rows of tasks a page has cost, besides those that were counted for its totalSize."""
        with conn.transaction():
            before = value(conn, seen)
            page = cluster.find(
                conn, kept=[], status=None, type=None, offset=offset, limit=50, sort=sort, descending=descending,
                statuses=tasks.STATUSES,
            )  # fmt: skip
            after = value(conn, seen)
        assert (len(page.rows), page.total) == (50, many + 1)
        return int(after - before) - many

    assert read("nothing") < 300
    assert read("nothing", descending=False) < 300
    assert read("nothing", 10_000) < 10_300
    assert read("last_execution") >= many  # what that spares
