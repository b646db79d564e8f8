"""Leases and time: lost workers, their tasks, retries that come due."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.database import Database, Databases
from tests.support.fleet import (
    OTHER,
    WORKER,
    Blocked,
    Connection,
    claim,
    column,
    create,
    lapse,
    put,
    register,
    sqlstate,
    status,
    task,
    value,
)


def test_a_worker_whose_lease_lapsed_loses_its_tasks_and_its_name(database: Database) -> None:
    conn = database.connect()
    register(conn)
    register(conn, OTHER)
    lost, kept = create(conn), create(conn)
    claim(conn)
    claim(conn, worker=OTHER)
    lapse(conn)
    assert conn.execute("select * from rescue_tasks()").fetchall() == [(lost, "fresh", WORKER, "job", 1)]
    row = task(conn, lost)
    assert (row["status"], row["worker"], row["crash_count"], row["failure_count"]) == ("fresh", None, 1, 0)
    assert task(conn, kept)["worker"] == OTHER
    assert column(conn, "select id from workers where lost_at is not null") == [WORKER]


def test_a_worker_declared_lost_can_neither_renew_nor_claim_nor_come_back_under_its_name(database: Database) -> None:
    conn = database.connect()
    register(conn)
    lapse(conn)
    conn.execute("select rescue_tasks()")
    assert sqlstate(conn, "select renew_worker(%s)", WORKER) == "PF005"
    assert sqlstate(conn, "select claim_tasks(%s, '{job}', 1)", WORKER) == "PF005"
    assert sqlstate(conn, "select register_worker(%s, 'n', '{job}', 1, '1 s', 'v')", WORKER) == "PF005"


def test_a_late_heartbeat_counts_while_nobody_has_declared_the_worker_lost(database: Database) -> None:
    conn = database.connect()
    register(conn, lease="30 seconds")
    id = put(conn, "started")
    lapse(conn)
    conn.execute("select renew_worker(%s)", [WORKER])
    assert value(conn, "select lease_expires_at - renewed_at from workers").total_seconds() == 30
    assert column(conn, "select id from rescue_tasks()") == []
    assert status(conn, id) == "started"


def test_a_worker_whose_lease_expired_cannot_settle_the_task_once_it_is_rescued(database: Database) -> None:
    conn = database.connect()
    register(conn)
    register(conn, OTHER)
    id = put(conn, "started")
    lapse(conn)
    conn.execute("select rescue_tasks()")
    assert claim(conn, worker=OTHER) == [id]
    assert value(conn, "select finish_tasks(%s, %s, '{1}', null)", WORKER, [id]) == [id]
    assert value(conn, "select finish_tasks(%s, %s, '{2}', null)", OTHER, [id]) == []


def test_a_poison_task_crashes_at_its_types_limit_and_keeps_its_last_worker(database: Database) -> None:
    conn = database.connect()
    conn.execute("insert into task_types (name, max_crashes) values ('job', 1)")
    id = None
    for n in range(2):
        worker = register(conn, f"w{n}:x")
        id = id or create(conn)
        assert claim(conn, worker=worker) == [id]
        lapse(conn, worker)
        conn.execute("select rescue_tasks()")
    assert id is not None
    row = task(conn, id)
    assert (row["status"], row["worker"], row["crash_count"]) == ("crashed", "w1:x", 2)
    assert row["error"] == "Its workers were lost 2 times."


def test_a_rescuer_passes_over_what_another_rescues(database: Database) -> None:
    first, second = database.connect(), database.connect()
    register(first)
    id = put(first, "started")
    lapse(first)
    with first.transaction():
        assert column(first, "select id from rescue_tasks()") == [id]
        second.execute("set lock_timeout = '10 s'")
        assert column(second, "select id from rescue_tasks()") == []
    assert task(first, id)["crash_count"] == 1


def test_a_rescue_takes_so_many_and_the_next_goes_on_where_it_stopped(database: Database) -> None:
    conn = database.connect()
    register(conn)
    register(conn, OTHER)
    ids = [create(conn) for _ in range(5)]
    claim(conn, 3)
    claim(conn, 2, worker=OTHER)
    lapse(conn)
    lapse(conn, OTHER)
    rescued = [column(conn, "select id from rescue_tasks(2)") for _ in range(4)]
    assert [len(some) for some in rescued] == [2, 2, 1, 0]
    assert sorted(id for some in rescued for id in some) == ids
    assert {status(conn, id) for id in ids} == {"fresh"}


def test_what_watched_a_worker_die_abandons_its_tasks_in_steps_too(database: Database) -> None:
    conn = database.connect()
    register(conn)
    for _ in range(3):
        create(conn)
    claim(conn, 3)
    abandoned = [column(conn, "select id from abandon_worker(%s, 2)", WORKER) for _ in range(3)]
    assert [len(some) for some in abandoned] == [2, 1, 0]


def test_a_claim_under_way_while_its_worker_is_declared_lost_is_found_by_the_next_rescue(database: Database) -> None:
    worker, rescuer = database.connect(), database.connect()
    register(worker)
    id = create(worker)
    with worker.transaction():
        assert claim(worker) == [id]
        lapse(rescuer)
        assert column(rescuer, "select id from rescue_tasks()") == []
    assert status(worker, id) == "started"
    assert column(rescuer, "select id from rescue_tasks()") == [id]
    assert status(worker, id) == "fresh"


def test_a_lost_worker_is_forgotten_after_an_hour(database: Database) -> None:
    conn = database.connect()
    register(conn)
    lapse(conn)
    conn.execute("select rescue_tasks()")
    assert column(conn, "select id from workers") == [WORKER]
    conn.execute("update workers set lost_at = now() - interval '61 minutes'")
    conn.execute("select rescue_tasks()")
    assert column(conn, "select id from workers") == []


def test_a_worker_that_leaves_in_order_gives_its_tasks_back_unblamed(database: Database) -> None:
    conn = database.connect()
    register(conn)
    held, done = put(conn, "started"), put(conn, "success")
    conn.execute("select deregister_worker(%s)", [WORKER])
    row = task(conn, held)
    assert (row["status"], row["worker"], row["crash_count"], row["failure_count"]) == ("fresh", None, 0, 0)
    assert status(conn, done) == "success"
    assert column(conn, "select id from workers") == []


def test_a_worker_that_leaves_waits_for_its_claim_that_is_under_way_and_gives_that_back_too(database: Database) -> None:
    """Its connection broke, the claim commits all the same: nobody could find the task by a worker that is gone."""
    claiming, leaving = database.connect(), database.connect()
    register(claiming)
    id = create(claiming)
    with claiming.transaction():
        assert claim(claiming) == [id]
        left = Blocked(database.connect(), leaving, lambda: leaving.execute("select deregister_worker(%s)", [WORKER]))
    left.result()
    assert (status(claiming, id), column(claiming, "select id from workers")) == ("fresh", [])


def test_a_claim_that_comes_while_its_worker_leaves_waits_and_is_refused(database: Database) -> None:
    claiming, leaving = database.connect(), database.connect()
    register(claiming)
    id = create(claiming)
    with leaving.transaction():
        leaving.execute("select deregister_worker(%s)", [WORKER])
        late = Blocked(
            database.connect(), claiming, lambda: sqlstate(claiming, "select claim_tasks(%s, '{job}', 1)", WORKER)
        )
    assert late.result() == "PF005"
    assert status(claiming, id) == "fresh"


def test_one_workers_leaving_waits_for_no_others_claim(database: Database) -> None:
    claiming, leaving = database.connect(), database.connect()
    register(claiming)
    register(claiming, OTHER)
    create(claiming)
    leaving.execute("set lock_timeout = '10 s'")
    with claiming.transaction():
        assert claim(claiming) != []
        leaving.execute("select deregister_worker(%s)", [OTHER])
    assert column(leaving, "select id from workers") == [WORKER]


def test_registering_makes_new_types_known_and_keeps_what_an_operator_changed(database: Database) -> None:
    conn = database.connect()
    conn.execute("update task_types set max_retries = 9")
    register(conn, types=["tea", "csv_export"])
    conn.execute("select register_type('csv_export', max_retries => 1)")
    names = column(conn, "select name from task_types order by name")
    assert names == ["csv_export", "tea"]
    assert value(conn, "select max_retries from task_types where name = 'csv_export'") == 9


# Time


def test_only_what_is_due_is_promoted_and_the_next_due_time_is_told(database: Database) -> None:
    conn = database.connect()
    register(conn)
    due = [put(conn, "waiting") for _ in range(3)]
    later = put(conn, "waiting")
    conn.execute("update tasks set run_at = now() - interval '1 second' where id = any (%s)", [due])
    conn.execute("update tasks set run_at = now() + interval '1 hour' where id = %s", [later])
    assert conn.execute("select promoted, next_in from promote_tasks(2)").fetchone() == (2, 0)
    promoted, next_in = conn.execute("select promoted, next_in from promote_tasks()").fetchone() or (0, 0)
    assert promoted == 1
    assert 3000 < next_in <= 3600
    assert [status(conn, id) for id in [*due, later]] == ["fresh", "fresh", "fresh", "waiting"]


def test_with_nothing_waiting_there_is_no_next_time(database: Database) -> None:
    assert database.connect().execute("select * from promote_tasks()").fetchone() == (0, None)


def test_a_promoter_passes_over_what_another_promotes(database: Database) -> None:
    first, second = database.connect(), database.connect()
    register(first)
    put(first, "waiting")
    first.execute("update tasks set run_at = now()")
    with first.transaction():
        assert value(first, "select promoted from promote_tasks()") == 1
        second.execute("set lock_timeout = '10 s'")
        assert value(second, "select promoted from promote_tasks()") == 0


def test_a_time_that_has_passed_makes_a_fresh_task(database: Database) -> None:
    conn = database.connect()
    register(conn)
    assert status(conn, create(conn, run_at="2001-01-01")) == "fresh"
    assert status(conn, create(conn, run_at="2999-01-01")) == "waiting"


@pytest.fixture(scope="module")
def anywhere(databases: Databases) -> Iterator[Connection]:
    """A connection for functions that touch no table."""
    made = databases.migrated()
    yield made.connect()
    databases.drop(made)


YEAR = 365 * 86_400_000


@given(
    milliseconds=st.one_of(st.integers(0, 10_000), st.integers(0, YEAR)),
    failures=st.integers(1, 1001),
    most=st.integers(0, YEAR),
)
@settings(max_examples=60)
def test_the_backoff_doubles_up_to_its_ceiling_within_a_fifth(
    anywhere: Connection, milliseconds: int, failures: int, most: int
) -> None:
    delay, ceiling = milliseconds / 1000, most / 1000
    query = "select extract(epoch from retry_backoff(make_interval(secs => %s), %s, make_interval(secs => %s)))::float8"
    pause = value(anywhere, query, delay, failures, ceiling)
    middle = max(delay, min(delay * 2.0 ** (failures - 1), ceiling))
    assert 0.8 * middle - 0.001 <= pause <= 1.2 * middle + 0.001


@pytest.mark.parametrize(
    ("options", "seconds"),
    [({}, 40), ({"retry_delay": "3 seconds"}, 12), ({"retry_delay": "2 minutes"}, 120), ({"retry_delay": "0"}, 0)],
    ids=["the type's", "the task's", "longer than the ceiling", "none"],
)
def test_the_pause_is_the_tasks_or_its_types_doubled_up_to_the_types_ceiling(
    database: Database, options: dict[str, str], seconds: int
) -> None:
    conn = database.connect()
    conn.execute(
        "select register_type('job', max_retries => 9, retry_delay => '15 seconds', max_retry_delay => '40 seconds')"
    )
    register(conn)
    id = create(conn, **options)
    for attempt in (1, 2, 3):
        conn.execute("update tasks set run_at = now()")
        conn.execute("select promote_tasks()")
        assert claim(conn) == [id]
        conn.execute("select fail_task(%s, %s, %s, 'broke')", [WORKER, id, attempt])
    pause = value(conn, "select extract(epoch from run_at - updated_on)::float8 from tasks")
    assert 0.8 * seconds - 0.001 <= pause <= 1.2 * seconds + 0.001
