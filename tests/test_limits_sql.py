"""max_running: at most so many tasks of a type run over the whole fleet, and what waits is never forgotten."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.database import Database
from tests.support.fleet import (
    OTHER,
    WORKER,
    Blocked,
    Connection,
    claim,
    column,
    create,
    heard,
    register,
    task,
    value,
)
from tests.support.limits import WAYS, fleet, settled, take

MIXED = [way for way in WAYS if way in ("front, several types", "by ids", "several lanes")]


@pytest.mark.parametrize("way", WAYS)
def test_no_more_run_than_the_limit_and_they_are_the_first(database: Database, way: str) -> None:
    conn, _ = fleet(database)
    ids = [create(conn, "few") for _ in range(5)]
    assert take(conn, way) == ids[:2]
    assert take(conn, way, worker=OTHER) == []
    conn.execute("select finish_tasks(%s, %s, '{1}', null)", [WORKER, [ids[0]]])
    assert take(conn, way, worker=OTHER) == [ids[2]]


@pytest.mark.parametrize("way", WAYS)
def test_the_limit_holds_for_a_worker_that_has_not_said_it_serves_the_type(database: Database, way: str) -> None:
    conn, _ = fleet(database)
    register(conn, "third", ["job"])
    ids = [create(conn, "few") for _ in range(5)]
    assert take(conn, way, worker="third") == ids[:2]
    assert take(conn, way, worker="third") == []


@pytest.mark.parametrize("way", WAYS)
def test_a_second_claim_waits_for_the_first_and_takes_only_what_that_left(database: Database, way: str) -> None:
    first, second = fleet(database)
    ids = [create(first, "few") for _ in range(5)]
    with first.transaction():
        assert take(first, way, 1) == ids[:1]
        other = Blocked(database.connect(), second, lambda: take(second, way, worker=OTHER))
    assert len(other.result()) == 1
    assert value(first, "select count(*) from tasks where status = 'started' and limited") == 2


@pytest.mark.parametrize("way", WAYS)
def test_a_claim_that_is_rolled_back_leaves_its_room(database: Database, way: str) -> None:
    first, second = fleet(database)
    ids = [create(first, "few") for _ in range(3)]
    with first.transaction(force_rollback=True):
        assert take(first, way) == ids[:2]
        other = Blocked(database.connect(), second, lambda: take(second, way, worker=OTHER))
    assert other.result() == ids[:2]


@pytest.mark.parametrize("way", MIXED)
def test_a_full_type_hides_no_task_of_another_type(database: Database, way: str) -> None:
    conn, _ = fleet(database)
    limited = [create(conn, "few") for _ in range(6)]
    jobs = [create(conn, "job") for _ in range(3)]
    assert take(conn, way, 4) == limited[:2] + jobs[:2]
    assert take(conn, way, 4) == jobs[2:]
    assert not any(task(conn, id)["limited"] for id in jobs)


@pytest.mark.parametrize("way", MIXED)
def test_where_nothing_of_a_limited_type_waits_no_claim_waits_for_another(database: Database, way: str) -> None:
    first, second = fleet(database)
    jobs = [create(first, "job") for _ in range(2)]
    second.execute("set lock_timeout = '10s'")
    with first.transaction():
        assert take(first, way, 1) == jobs[:1]
        assert take(second, way, worker=OTHER) == jobs[1:]


def test_behind_watermarks_a_full_type_makes_no_claim_wait_for_another(database: Database) -> None:
    first, second = fleet(database)
    for _ in range(3):
        create(first, "few")
    jobs = [create(first, "job") for _ in range(2)]
    assert len(take(first, "several lanes", 2)) == 2
    second.execute("set lock_timeout = '10s'")
    with first.transaction():
        assert take(first, "several lanes", 1) == jobs[:1]
        assert take(second, "several lanes", worker=OTHER) == jobs[1:]


def test_the_urgent_of_a_type_over_several_lanes_fill_its_room(database: Database) -> None:
    conn, _ = fleet(database)
    plain = [create(conn, "few") for _ in range(3)]
    urgent = create(conn, "few", priority=1)
    job = create(conn, "job")
    assert take(conn, "several lanes") == [urgent, plain[0], job]


def test_what_names_a_node_counts_too(database: Database) -> None:
    conn, _ = fleet(database)
    ids = [create(conn, "few", node="node") for _ in range(2)] + [create(conn, "few")]
    assert take(conn, "front, one type") == ids[:2]
    assert take(conn, "by ids") == take(conn, "one lane") == []


def failed(conn: Connection, id: int) -> None:
    conn.execute("select fail_task(%s, %s, 1, 'broke')", [WORKER, id])


def waits_for_its_retry(conn: Connection, id: int) -> None:
    conn.execute("update tasks set max_retries = 1 where id = %s", [id])
    failed(conn, id)


def given_back(conn: Connection, id: int) -> None:
    conn.execute("select release_tasks(%s, %s, '{1}', '1 hour')", [WORKER, [id]])


def cancelled(conn: Connection, id: int) -> None:
    conn.execute("select cancel_task(%s)", [id])
    conn.execute("select end_cancelled(%s, %s, 1)", [WORKER, id])


def poisonous(conn: Connection, id: int) -> None:
    conn.execute("update tasks set crash_count = 2 where id = %s", [id])
    conn.execute("update workers set lease_expires_at = now() - interval '1 s' where id = %s", [WORKER])
    conn.execute("select rescue_tasks()")


def its_worker_left(conn: Connection, id: int) -> None:
    conn.execute("select deregister_worker(%s)", [WORKER])


def limit_raised(conn: Connection, id: int) -> None:
    conn.execute("select configure_type('few', max_running => 2)")


def limit_taken_away(conn: Connection, id: int) -> None:
    conn.execute("select configure_type('few', max_running => 0)")


@pytest.mark.parametrize(
    "event",
    [
        settled,
        failed,
        waits_for_its_retry,
        given_back,
        cancelled,
        poisonous,
        its_worker_left,
        limit_raised,
        limit_taken_away,
    ],
)
def test_whatever_makes_room_wakes_the_sleepers_for_what_waits(
    database: Database, event: Callable[[Connection, int], None]
) -> None:
    conn, ear = fleet(database, most=1)
    runs, waits = create(conn, "few"), create(conn, "few")
    assert take(conn, "front, one type") == [runs]
    ear.execute("listen task_created")
    event(conn, runs)
    told = heard(ear)
    assert waits in told or (event is its_worker_left and runs in told)
    assert take(ear, "by ids", 1, worker=OTHER)[0] in (runs, waits)


def test_where_nothing_waits_or_all_are_awake_nobody_is_told(database: Database) -> None:
    conn, ear = fleet(database, most=1)
    ids = [create(conn, "few")]
    ear.execute("listen task_created")
    take(conn, "front, one type")
    settled(conn, ids[0])
    assert heard(ear) == []
    ids = [create(conn, "few"), create(conn, "few")]
    take(conn, "front, one type")
    conn.execute("select set_sleeping(id, false) from workers")
    heard(ear)
    settled(conn, ids[0])
    assert heard(ear) == []


def test_the_tasks_of_types_without_a_limit_are_settled_without_a_word(database: Database) -> None:
    conn, ear = fleet(database)
    ids = [create(conn, "job"), create(conn, "job")]
    assert claim(conn, 1) == ids[:1]
    ear.execute("listen task_created")
    settled(conn, ids[0])
    assert heard(ear) == []


def test_a_worker_told_of_a_task_whose_type_seems_full_waits_for_room_that_is_being_made(database: Database) -> None:
    # Who makes room looked before the task was there, and tells nobody; so the one told of the task must not turn away.
    first, second = fleet(database, most=1)
    runs = create(first, "few")
    take(first, "front, one type")
    with first.transaction():
        settled(first, runs)
        first.execute("set constraints all immediate")  # its commit's look is over; the gate is the commit itself
        waits = create(second, "few")
        other = Blocked(database.connect(), second, lambda: take(second, "by ids", worker=OTHER))
    assert other.result() == [waits]


def test_who_makes_room_waits_for_a_claim_and_then_sees_what_that_saw(database: Database) -> None:
    first, second = fleet(database, most=1)
    runs = create(first, "few")
    take(first, "front, one type")
    waits = create(first, "few")
    ear = database.connect()
    ear.execute("listen task_created")
    with second.transaction():
        assert take(second, "by ids", worker=OTHER) == []  # full: this one turns away
        room = Blocked(database.connect(), first, lambda: settled(first, runs))
    room.result()
    assert waits in heard(ear)


def test_workers_that_settle_and_claim_several_limited_types_do_not_deadlock(database: Database) -> None:
    first, second = fleet(database)
    first.execute("select register_type('rare', max_running => 2)")
    for conn in (first, second):
        conn.execute("set deadlock_timeout = '100ms'")
    few, rare = create(first, "few"), create(first, "rare")
    assert column(first, "select id from claim_tasks(%s, '{few,rare}', 2)", WORKER) == [few, rare]
    for type in ("few", "rare"):
        create(first, type)
    finish = "select finish_tasks(%s, %s, '{1}', null)"
    with first.transaction():
        first.execute(finish, [WORKER, [few]])
        first.execute("set constraints all immediate")
        first.execute("set constraints all deferred")
        other = Blocked(
            database.connect(), second, lambda: column(second, "select id from claim_tasks(%s, '{rare,few}', 9)", OTHER)
        )
        first.execute(finish, [WORKER, [rare]])
    assert len(other.result()) == 2
