"""Many tasks before a watermark (a bulk committed late, retries, what is due at once): the lanes go back and lead to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pgfleet import tasks
from pgfleet_worker import claims as module
from pgfleet_worker import overlooked
from pgfleet_worker.claims import Claims
from tests.support.database import Database
from tests.support.fleet import OTHER, WORKER, Connection, claim, create, register


@pytest.fixture
def conn(database: Database) -> Connection:
    conn = database.connect()
    register(conn)
    return conn


@pytest.fixture
def claims(database: Database, conn: Connection, monkeypatch: pytest.MonkeyPatch) -> Iterator[Claims]:
    """Claims that make no look from the front unless they are told to."""
    monkeypatch.setattr(module, "FRONT_PAUSE", 600.0)
    monkeypatch.setattr(module, "MOST_FRONT_PAUSE", 600.0)
    made = Claims(database.settings(), ["job"])
    made.connect()
    made.front(WORKER, 1)
    yield made
    made.close()


@pytest.fixture
def late(database: Database, claims: Claims, conn: Connection) -> Callable[[int], list[int]]:
    """``late(10)``: ids of so many tasks that lie before the watermark."""

    def commit_late(amount: int) -> list[int]:
        slow = database.connect(autocommit=False)
        ids = tasks.create_many(slow, "job", [None] * amount, created_by=0)
        mark = create(conn)
        assert taken(claims.front(WORKER, 9)) == [mark]
        slow.commit()
        return ids

    return commit_late


def taken(claimed: list[Any]) -> list[int]:
    return [task.id for task in claimed]


def again(conn: Connection, ids: list[int]) -> None:
    """Let them be ready once more."""
    conn.execute("update tasks set status = 'fresh', worker = null where id = any (%s)", [ids])


def by_lanes(claims: Claims, quantity: int, ids: list[int] | None = None) -> list[int]:
    got = taken(claims.next(WORKER, quantity, ids=ids or []))
    assert not claims.from_front
    return got


def test_after_a_full_look_from_the_front_the_lane_leads_to_the_rest_and_then_beyond(
    conn: Connection, claims: Claims, late: Callable[[int], list[int]]
) -> None:
    ids = late(10)
    assert by_lanes(claims, 4) == []
    assert taken(claims.front(WORKER, 4)) == ids[:4]
    assert by_lanes(claims, 4) == ids[4:8]
    new = [create(conn) for _ in range(3)]
    assert by_lanes(claims, 4) == [*ids[8:], *new[:2]]
    assert by_lanes(claims, 4) == new[2:]


def test_a_look_that_found_all_moves_no_lane(
    conn: Connection, claims: Claims, late: Callable[[int], list[int]]
) -> None:
    ids = late(3)
    assert taken(claims.front(WORKER, 4)) == ids
    again(conn, ids)
    assert by_lanes(claims, 4) == []


def test_a_lane_that_leads_to_nothing_more_is_not_walked_again(
    conn: Connection, claims: Claims, late: Callable[[int], list[int]]
) -> None:
    ids = late(6)
    assert taken(claims.front(WORKER, 3)) == ids[:3]
    assert by_lanes(claims, 9) == ids[3:]
    again(conn, ids[4:])
    assert by_lanes(claims, 9) == []  # before the mark, to which it has come back
    assert by_lanes(claims, 9, ids[5:]) == ids[5:]
    assert by_lanes(claims, 9) == []


def test_a_lane_that_more_urgent_tasks_keep_from_being_reached_comes_back_until_it_is(
    conn: Connection, claims: Claims, late: Callable[[int], list[int]]
) -> None:
    ids = late(6)
    urgent = [create(conn, priority=5) for _ in range(5)]
    assert taken(claims.front(WORKER, 1)) == urgent[:1]
    conn.execute(
        "update tasks set run_at = now() + interval '1 hour', status = 'waiting' where id = any (%s)", [urgent[1:]]
    )
    assert by_lanes(claims, 9) == []  # of what is less urgent that look has told nothing
    assert taken(claims.front(WORKER, 2)) == ids[:2]
    conn.execute("update tasks set run_at = null, status = 'fresh' where id = any (%s)", [urgent[1:]])
    assert by_lanes(claims, 3) == urgent[1:4]
    assert by_lanes(claims, 3) == urgent[4:]
    assert taken(claims.front(WORKER, 9)) == ids[2:]


def test_ids_that_are_heard_of_do_not_keep_a_lane_from_coming_back(
    conn: Connection, claims: Claims, late: Callable[[int], list[int]]
) -> None:
    ids = late(5)
    assert taken(claims.front(WORKER, 2)) == ids[:2]
    assert by_lanes(claims, 2) == ids[2:4]
    assert claim(conn, 1, worker=register(conn, OTHER)) == ids[4:]
    again(conn, ids[:1])
    assert by_lanes(claims, 1, ids[:1]) == ids[:1]
    again(conn, ids[4:])
    assert by_lanes(claims, 9) == []


def test_what_others_took_meanwhile_is_passed_over(
    conn: Connection, claims: Claims, late: Callable[[int], list[int]]
) -> None:
    ids = late(9)
    assert taken(claims.front(WORKER, 3)) == ids[:3]
    other = register(conn, OTHER)
    assert claim(conn, 3, worker=other) == ids[3:6]
    assert by_lanes(claims, 9) == ids[6:]


def test_a_look_beside_the_work_that_did_not_find_all_leads_the_lane_to_all(
    conn: Connection,
    claims: Claims,
    late: Callable[[int], list[int]],
    wait_until: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "DEAR", -1.0)
    monkeypatch.setattr(overlooked, "MOST", 3)
    ids = late(8)
    claims.look_from_the_front()
    assert by_lanes(claims, 4) == []
    found = wait_until(claims.found)
    assert (found.ids, found.all) == (ids[:3], False)
    assert by_lanes(claims, 4, found.ids) == ids[:4]
    assert by_lanes(claims, 9) == ids[4:]
    assert by_lanes(claims, 9) == []
    new = create(conn)
    assert by_lanes(claims, 9) == [new]
