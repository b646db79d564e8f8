"""One unfinished task for a type and key, however many ask at once."""

from __future__ import annotations

import pytest
from psycopg import IsolationLevel

from pgfleet import tasks
from tests.support.database import Database
from tests.support.fleet import Blocked, column, create, put, register, sqlstate, status


@pytest.mark.parametrize("held", ["waiting", "fresh", "started"])
def test_an_unfinished_task_of_the_key_is_answered_instead_of_a_second(database: Database, held: str) -> None:
    conn = database.connect()
    register(conn)
    id = put(conn, held, unique_key="k")
    assert tasks.insert(conn, "job", created_by=2, unique_key="k") == (id, False)
    assert tasks.insert(conn, "csv_export", created_by=2, unique_key="k")[1]
    assert tasks.insert(conn, "job", created_by=2, unique_key="other")[1]


@pytest.mark.parametrize("finished", ["success", "failure", "crashed", "cancelled"])
def test_a_finished_task_gives_its_key_free(database: Database, finished: str) -> None:
    conn = database.connect()
    register(conn)
    id = put(conn, finished, unique_key="k")
    assert create(conn, unique_key="k") != id


def test_of_two_that_race_for_a_key_the_second_waits_and_gets_the_firsts_id(database: Database) -> None:
    first, second = database.connect(), database.connect()
    register(first)
    with first.transaction():
        id = create(first, unique_key="k")
        other = Blocked(database.connect(), second, lambda: create(second, unique_key="k"))
    assert other.result() == id
    assert column(first, "select id from tasks") == [id]


def test_when_the_first_of_two_that_race_rolls_back_the_second_creates(database: Database) -> None:
    first, second = database.connect(), database.connect()
    register(first)
    with first.transaction(force_rollback=True):
        id = create(first, unique_key="k")
        other = Blocked(database.connect(), second, lambda: create(second, unique_key="k"))
    assert other.result() != id
    assert column(first, "select id from tasks") == [other.result()]


def test_a_key_whose_holder_finishes_meanwhile_is_taken_anew(database: Database) -> None:
    first, second = database.connect(), database.connect()
    register(first)
    with first.transaction():
        id = create(first, unique_key="k")
        other = Blocked(database.connect(), second, lambda: create(second, unique_key="k"))
        first.execute("select cancel_task(%s)", [id])
    assert other.result() != id
    assert [status(first, id), status(first, other.result())] == ["cancelled", "fresh"]


def test_a_holder_that_finishes_just_after_it_was_met_gives_its_key_to_who_met_it(database: Database) -> None:
    first, second = database.connect(), database.connect()
    register(first)
    id = create(first, unique_key="k")
    # The gate stands between the insert that meets the holder and the look for the holder's id.
    first.execute(
        "create function gate() returns trigger language plpgsql as"
        " 'begin perform pg_advisory_xact_lock_shared(1); return null; end'"
    )
    first.execute("create trigger gate after insert on tasks for each statement execute function gate()")
    with first.transaction():
        first.execute("select pg_advisory_xact_lock(1)")
        other = Blocked(database.connect(), second, lambda: create(second, unique_key="k"))
        first.execute("select cancel_task(%s)", [id])
    assert other.result() != id
    assert status(first, other.result()) == "fresh"


def test_under_repeatable_read_a_key_taken_meanwhile_is_a_serialization_failure(database: Database) -> None:
    first, second = database.connect(), database.connect()
    register(first)
    second.isolation_level = IsolationLevel.REPEATABLE_READ
    second.autocommit = False
    second.execute("select 1")
    create(first, unique_key="k")
    assert sqlstate(second, "select create_task('job', '', 1, unique_key => 'k')") == "40001"
    second.rollback()


def test_a_retry_is_refused_while_another_task_holds_the_key(database: Database) -> None:
    conn = database.connect()
    register(conn)
    failed = put(conn, "failure", unique_key="k")
    create(conn, unique_key="k")
    assert sqlstate(conn, "select retry_task(%s)", failed) == "PF003"
    assert status(conn, failed) == "failure"


def test_a_retry_that_races_with_a_create_for_the_key_is_refused_alike(database: Database) -> None:
    first, second = database.connect(), database.connect()
    register(first)
    failed = put(first, "failure", unique_key="k")
    with first.transaction():
        create(first, unique_key="k")
        retry = Blocked(database.connect(), second, lambda: sqlstate(second, "select retry_task(%s)", failed))
    assert retry.result() == "PF003"
    assert status(first, failed) == "failure"
