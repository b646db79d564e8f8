"""The types of the fleet's own chores stand apart: what else a worker serves is claimed as if they were not there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgfleet_worker import claims as module
from pgfleet_worker.aio import AsyncSlots
from pgfleet_worker.attempt import Pace
from pgfleet_worker.claims import Claims
from pgfleet_worker.room import Ask, Room
from pgfleet_worker.slots import ThreadSlots
from tests.support.database import Database
from tests.support.fleet import WORKER, Connection, create, register


@pytest.fixture
def conn(database: Database) -> Connection:
    conn = database.connect()
    conn.execute("select register_type('rare', max_running => 1)")
    register(conn)
    return conn


@pytest.fixture
def claims(conn: Connection, database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Claims]:
    """Claims that look from the front once, and then for half a minute behind their watermarks only."""
    monkeypatch.setattr(module, "FRONT_PAUSE", 600.0)
    made = Claims(database.settings(), ["job"], ["rare"])
    made.connect()
    yield made
    made.close()


def test_they_are_found_from_the_front_and_by_their_ids_and_never_behind_watermarks(
    conn: Connection, claims: Claims
) -> None:
    both = [create(conn, "rare"), create(conn)]
    assert sorted(task.id for task in claims.next(WORKER, 9)) == both
    conn.execute("select finish_tasks(%s, %s, '{1,1}', null)", [WORKER, both])
    rare, job = create(conn, "rare"), create(conn)
    assert [task.id for task in claims.next(WORKER, 9)] == [job]
    assert not claims.from_front
    assert [task.id for task in claims.by_ids(WORKER, [rare], 9)] == [rare]
    conn.execute("select finish_tasks(%s, %s, '{1}', null)", [WORKER, [rare]])
    create(conn, "rare")
    assert claims.next(WORKER, 9) == []


def test_they_are_not_claimed_ahead_nor_ask_for_looks_of_their_own() -> None:
    job, rare = Pace(), Pace()
    for pace in (job, rare):
        pace.observe(0.001)
    threads = ThreadSlots(10, lambda task: None)
    coroutines = AsyncSlots(10, lambda task: NotImplemented, lambda task: None)
    room = Room(10, {"job": job, "rare": rare}, apart={"rare"})
    room.measure(threads, coroutines)
    assert list(room.asks(thorough=False)) == [Ask(20)]  # ten slots, and as many ahead
    job.observe(9.0)
    room.measure(threads, coroutines)
    assert list(room.asks(thorough=False)) == [Ask(10)]
