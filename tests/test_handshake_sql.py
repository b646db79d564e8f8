"""NOTIFY is spared while nobody needs it, and yet no task stays unseen: the handshake of create_task."""

from __future__ import annotations

import pytest
from psycopg import IsolationLevel

from pgfleet import tasks
from tests.support.database import Database
from tests.support.fleet import (
    OTHER,
    WORKER,
    Connection,
    claim,
    create,
    heard,
    lapse,
    listener,
    put,
    register,
    value,
)


def sleep(conn: Connection, sleeping: bool, worker: str = WORKER) -> None:
    conn.execute("select set_sleeping(%s, %s)", [worker, sleeping])


def test_the_id_is_notified_with_the_creating_transactions_commit(database: Database) -> None:
    conn, ear = database.connect(), listener(database)
    register(conn)
    with conn.transaction():
        id = create(conn)
        assert heard(ear) == []
    assert heard(ear) == [id]


def test_a_task_that_is_rolled_back_is_never_notified(database: Database) -> None:
    conn, ear = database.connect(), listener(database)
    register(conn)
    with conn.transaction(force_rollback=True):
        create(conn)
    assert heard(ear) == []


@pytest.mark.parametrize(
    ("first_sleeps", "second", "told"),
    [
        (True, None, True),
        (False, None, False),
        (False, "sleeps", True),
        (False, "awake", False),
        (False, "sleeps, but lapsed", False),
        (True, "awake", True),
    ],
)
def test_a_notification_is_spared_only_while_every_live_worker_is_awake(
    database: Database, first_sleeps: bool, second: str | None, told: bool
) -> None:
    conn, ear = database.connect(), listener(database)
    register(conn)
    sleep(conn, first_sleeps)
    if second:
        register(conn, OTHER)
        sleep(conn, second != "awake", OTHER)
    if second == "sleeps, but lapsed":
        lapse(conn, OTHER)
    id = create(conn)
    assert heard(ear) == ([id] if told else [])


def test_without_any_worker_tasks_are_notified(database: Database) -> None:
    conn, ear = database.connect(), listener(database)
    id = value(conn, "select create_task('csv_export', '', 1)")
    assert heard(ear) == [id]


def test_a_worker_may_not_sleep_while_a_transaction_creates_unheard(database: Database) -> None:
    foreign, worker, ear = database.connect(), database.connect(), listener(database)
    register(worker)
    sleep(worker, False)
    assert value(worker, "select fleet_is_quiet()") is True
    with foreign.transaction():
        id = create(foreign)  # sees nobody asleep: no NOTIFY
        sleep(worker, True)
        assert claim(worker) == []  # its last look can't see the row yet
        assert value(worker, "select fleet_is_quiet()") is False
    assert heard(ear) == []
    assert value(worker, "select fleet_is_quiet()") is True
    assert claim(worker) == [id]


def test_whoever_creates_after_a_worker_was_told_quiet_wakes_it(database: Database) -> None:
    foreign, worker, ear = database.connect(), database.connect(), listener(database)
    register(worker)
    sleep(worker, False)
    with foreign.transaction():
        foreign.execute("select 1")  # a transaction that is older than the worker's sleep
        sleep(worker, True)
        assert value(worker, "select fleet_is_quiet()") is True
        id = create(foreign)
    assert heard(ear) == [id]


def test_asking_for_quiet_holds_nobody_up(database: Database) -> None:
    foreign, worker = database.connect(), database.connect()
    register(worker)
    assert value(worker, "select fleet_is_quiet()") is True
    foreign.execute("set lock_timeout = '10 s'")
    assert create(foreign) > 0


@pytest.mark.parametrize("level", [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE])
def test_a_transaction_with_a_snapshot_of_its_own_always_notifies(database: Database, level: IsolationLevel) -> None:
    foreign, worker, ear = database.connect(), database.connect(), listener(database)
    register(worker)
    sleep(worker, False)
    foreign.isolation_level = level
    with foreign.transaction():
        foreign.execute("select 1")  # the snapshot: everybody awake
        sleep(worker, True)
        assert value(worker, "select fleet_is_quiet()") is True
        id = create(foreign)
    assert heard(ear) == [id]


def test_listeners_of_ones_own_can_ask_for_every_notification(database: Database) -> None:
    conn, ear = database.connect(), listener(database)
    register(conn)
    sleep(conn, False)
    create(conn)
    assert heard(ear) == []
    conn.execute("set pgfleet.notify = always")
    id = create(conn)
    assert heard(ear) == [id]


def test_inserting_and_telling_can_be_two_steps(database: Database) -> None:
    conn, ear = database.connect(), listener(database)
    register(conn)
    id, created = tasks.insert(conn, "job", created_by=1)
    assert created
    assert heard(ear) == []
    tasks.notify(conn, [id])
    assert heard(ear) == [id]


def test_telling_is_spared_where_nobody_sleeps(database: Database) -> None:
    conn, ear = database.connect(), listener(database)
    register(conn)
    sleep(conn, False)
    tasks.notify(conn, [1, 2, 3])
    assert heard(ear) == []


def test_many_tasks_at_once_wake_with_a_few_notifications(database: Database) -> None:
    conn, ear = database.connect(), listener(database)
    register(conn)
    ids = tasks.create_many(conn, "job", map(str, range(500)), created_by=1)
    assert heard(ear) == ids[:64]


@pytest.mark.parametrize("back", ["retry_task", "release_tasks", "promote_tasks", "rescue_tasks"])
def test_a_task_that_becomes_ready_again_is_notified(database: Database, back: str) -> None:
    conn, ear = database.connect(), listener(database)
    register(conn)
    match back:
        case "retry_task":
            id = put(conn, "failure")
            heard(ear)
            tasks.retry(conn, id)
        case "release_tasks":
            id = put(conn, "started")
            heard(ear)
            conn.execute("select release_tasks(%s, %s, '{1}')", [WORKER, [id]])
        case "promote_tasks":
            id = put(conn, "waiting")
            conn.execute("update tasks set run_at = now()")
            heard(ear)
            conn.execute("select promote_tasks()")
        case _:
            id = put(conn, "started")
            lapse(conn)
            heard(ear)
            conn.execute("select rescue_tasks()")
    assert heard(ear) == [id]


@pytest.mark.parametrize(("sleepers", "told"), [(0, False), (1, True), (20, True), (21, False)])
def test_when_a_retry_is_due_is_told_to_those_that_sleep_unless_they_are_a_crowd(
    database: Database, sleepers: int, told: bool
) -> None:
    conn, ear = database.connect(), listener(database)
    register(conn)
    for n in range(sleepers):
        register(conn, f"w:{n}")
    sleep(conn, False)
    id = put(conn, "started", max_retries=3)
    heard(ear)
    conn.execute("select fail_task(%s, %s, 1, 'no', retry_in => '1 minute')", [WORKER, id])
    assert heard(ear) == ([id] if told else [])
