"""An operator's hand on max_running and what else holds for a type: set, lowered, raised, taken away while tasks run."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgfleet import tasks
from tests.support.database import Database
from tests.support.fleet import (
    OTHER,
    WORKER,
    Blocked,
    claim,
    create,
    sqlstate,
    task,
    value,
)
from tests.support.limits import fleet, settled, take


def test_a_first_limit_counts_what_runs_already(database: Database) -> None:
    conn, _ = fleet(database)
    jobs = [create(conn, "job") for _ in range(4)]
    assert claim(conn, 2) == jobs[:2]
    tasks.configure_type(conn, "job", max_running=2)
    assert claim(conn, 9) == []
    settled(conn, jobs[0])
    assert claim(conn, 9) == [jobs[2]]


def test_a_first_limit_waits_for_the_claims_under_way_and_counts_them(database: Database) -> None:
    first, second = fleet(database)
    jobs = [create(first, "job") for _ in range(4)]
    with first.transaction():
        assert claim(first, 2) == jobs[:2]
        limit = Blocked(database.connect(), second, lambda: tasks.configure_type(second, "job", max_running=2))
    limit.result()
    assert claim(first, 9) == []


def test_a_claim_waits_for_a_first_limit_that_is_being_set(database: Database) -> None:
    first, second = fleet(database)
    jobs = [create(first, "job") for _ in range(4)]
    with first.transaction():
        tasks.configure_type(first, "job", max_running=1)
        other = Blocked(database.connect(), second, lambda: claim(second, 9, worker=OTHER))
    assert other.result() == jobs[:1]


def test_a_first_limit_gives_up_soon_where_a_claim_stays_open(database: Database) -> None:
    first, second = fleet(database)
    create(first, "job")
    with first.transaction():
        claim(first)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            tasks.configure_type(second, "job", max_running=1)
    assert value(first, "select max_running from task_types where name = 'job'") is None


def test_a_lowered_limit_lets_what_runs_end(database: Database) -> None:
    conn, _ = fleet(database, most=3)
    ids = [create(conn, "few") for _ in range(5)]
    assert len(take(conn, "one lane")) == 3
    tasks.configure_type(conn, "few", max_running=1)
    for id in ids[:2]:
        settled(conn, id)
        assert take(conn, "one lane") == []
    settled(conn, ids[2])
    assert take(conn, "one lane") == ids[3:4]


def test_a_limit_taken_away_and_set_again_counts_what_was_claimed_between(database: Database) -> None:
    conn, _ = fleet(database)
    for _ in range(5):
        create(conn, "few")
    assert len(take(conn, "one lane", 1)) == 1
    tasks.configure_type(conn, "few", max_running=0)
    assert len(take(conn, "one lane", 2)) == 2
    tasks.configure_type(conn, "few", max_running=3)
    assert take(conn, "one lane") == []


def test_configuring_a_type_changes_only_what_is_named(database: Database) -> None:
    conn, _ = fleet(database)
    tasks.configure_type(conn, "few", timeout=timedelta(seconds=30), max_retries=4)
    tasks.configure_type(
        conn, "few", retry_delay=timedelta(seconds=5), max_crashes=0, max_retry_delay=timedelta(hours=2)
    )
    row = conn.execute(
        "select max_running, timeout, max_retries, retry_delay, max_crashes, max_retry_delay"
        " from task_types where name = 'few'"
    ).fetchone()
    assert row == (2, timedelta(seconds=30), 4, timedelta(seconds=5), 0, timedelta(hours=2))
    tasks.configure_type(conn, "few", timeout=timedelta())
    assert value(conn, "select timeout from task_types where name = 'few'") is None


@pytest.mark.parametrize(
    "options",
    ["max_running => -1", "timeout => '-1 s'", "max_retries => 1001", "retry_delay => '-1 s'", "max_crashes => -1"],
)
def test_a_setting_out_of_range_or_of_an_unknown_type_is_refused(database: Database, options: str) -> None:
    conn, _ = fleet(database)
    assert sqlstate(conn, f"select configure_type('few', {options})") == "PF006"
    assert sqlstate(conn, f"select configure_type('nonesuch', {options})") == "PF001"


@pytest.mark.parametrize("news", ["configure_type('job', max_running => 1)", f"order_worker('{WORKER}', 'pause')"])
def test_above_read_committed_a_claim_is_refused_which_could_not_see_what_was_ordered_meanwhile(
    database: Database, news: str
) -> None:
    conn, _ = fleet(database)
    create(conn, "job")
    conn.execute("begin isolation level repeatable read")
    conn.execute("select from tasks")
    database.connect().execute(f"select {news}")
    with pytest.raises(psycopg.errors.ActiveSqlTransaction, match="read committed"):
        claim(conn)
    conn.execute("rollback")


def test_a_task_that_was_limited_once_is_not_counted_when_it_is_no_more(database: Database) -> None:
    conn, _ = fleet(database, most=1)
    id: Any = create(conn, "few")
    take(conn, "one lane")
    conn.execute("select release_tasks(%s, %s, '{1}')", [WORKER, [id]])
    tasks.configure_type(conn, "few", max_running=0)
    assert take(conn, "one lane") == [id]
    assert not task(conn, id)["limited"]
