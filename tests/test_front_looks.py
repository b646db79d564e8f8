"""How often a worker looks from the queue's front: seldom where that is dear, never because something else is slow."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pgfleet import log, tasks
from pgfleet_worker import claims as claims_module
from pgfleet_worker.attempt import Pace
from pgfleet_worker.claims import Claims
from pgfleet_worker.looks import Looks
from pgfleet_worker.rest import Rest
from pgfleet_worker.room import Room
from pgfleet_worker.turns import Turns
from tests.support.database import Database
from tests.support.fleet import WORKER, register
from tests.support.proxy import Proxy

#: Seconds that the link stands still, many times what a look takes, and what a thirtieth of the time would make of them.
STILL = 0.9
A_THIRTIETH = STILL / 0.03


@pytest.fixture
def proxy(database: Database) -> Iterator[Proxy]:
    with Proxy.before(database.url) as made:
        yield made


@pytest.fixture
def claims(database: Database, proxy: Proxy) -> Iterator[Claims]:
    register(database.connect(), WORKER, types=["echo"])
    made = Claims(database.settings(database_url=proxy.url(database.url)), ["echo"])
    made.connect()
    for _ in range(2):  # the first alone has the plans to make
        made.front(WORKER, 1)
    yield made
    made.close()


def look_over_a_slow_link(claims: Claims, proxy: Proxy) -> None:
    proxy.pause("down")
    resume = threading.Timer(STILL, proxy.resume)
    resume.start()
    claims.front(WORKER, 1)
    resume.join()


def test_one_look_over_a_link_that_stood_still_does_not_keep_the_worker_from_the_next(
    claims: Claims, proxy: Proxy
) -> None:
    look_over_a_slow_link(claims, proxy)
    assert claims.front_in < A_THIRTIETH / 4


def test_looks_that_are_slow_again_and_again_become_rare(claims: Claims, proxy: Proxy) -> None:
    look_over_a_slow_link(claims, proxy)
    look_over_a_slow_link(claims, proxy)
    assert A_THIRTIETH / 2 < claims.front_in <= 30


def test_where_everything_is_slow_looks_are_as_frequent_as_ever(claims: Claims, proxy: Proxy) -> None:
    for _ in range(20):
        claims.took(STILL)
    look_over_a_slow_link(claims, proxy)
    look_over_a_slow_link(claims, proxy)
    assert claims.front_in < A_THIRTIETH / 4


#: Slots of which none is taken.
FREE: Any = SimpleNamespace(busy={}, unanswered=0.0, blocked_for=float)


def parts(database: Database, claims: Claims, *, slots: int = 1, poll: float = 600) -> tuple[Looks, Rest, Room, Turns]:
    """Of a worker what decides when it looks; not the loop, but what the loop asks."""
    settings = database.settings(poll=poll)
    attempts: Any = SimpleNamespace(worker=WORKER)
    room, turns = Room(slots, {"echo": Pace()}), Turns(1)
    looks = Looks(settings, log.get(), claims, attempts, room)
    return looks, Rest(settings, looks, attempts, room, turns, lambda: 0), room, turns


@pytest.mark.parametrize("what", ["a delayed task", "a task left to others", "the poll"])
def test_a_worker_that_owes_a_dear_look_rests_no_longer_than_until_what_is_due(
    database: Database, claims: Claims, proxy: Proxy, what: str
) -> None:
    looks, rest, room, turns = parts(database, claims, poll=0.5 if what == "the poll" else 600)
    room.measure(FREE, FREE)
    while rest.pause([]) == 0:  # once more after it lay down, and its first poll
        pass
    look_over_a_slow_link(claims, proxy)
    look_over_a_slow_link(claims, proxy)
    looks.owe()
    looks.promote_due = turns.due = time.monotonic() + 600
    if what == "a delayed task":
        looks.promote_due = time.monotonic() + 0.5
    elif what == "a task left to others":
        turns.due = time.monotonic() + 0.5
    while (pause := rest.pause([])) == 0:
        pass
    assert claims.front_in > 1
    assert pause <= 0.5


def test_a_worker_with_work_for_a_moment_says_that_it_is_awake_unless_lying_down_again_is_dear(
    database: Database, claims: Claims, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgfleet_worker.rest.BUSY", 0.0)
    monkeypatch.setattr(claims_module, "FRONT_PAUSE", 0.0)
    _, rest, room, _ = parts(database, claims)
    task: Any = SimpleNamespace()
    for dear in (False, True):
        if dear:
            look_over_a_slow_link(claims, proxy)
            look_over_a_slow_link(claims, proxy)
        room.measure(FREE, FREE)
        while rest.pause([]) == 0:  # it lies down
            pass
        until = time.monotonic() + (0.05 if dear else 20)
        while rest.asleep and time.monotonic() < until:
            rest.pause([task])
        assert rest.asleep is dear


def test_a_look_from_the_front_that_found_as_many_as_it_asked_for_leaves_one_owed(
    database: Database, claims: Claims
) -> None:
    conn = database.connect()
    looks, _, room, _ = parts(database, claims, slots=3)
    for priority in (9, 9, 9, 5):
        tasks.create(conn, "echo", created_by=1, priority=priority)
    looks.once_more()
    assert len(looks.claim(room.measure(FREE, FREE))) == 3
    assert claims.from_front
    assert looks.owed


def test_what_looks_of_a_kind_cost_that_are_made_no_more_is_forgotten(
    claims: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims_module, "MOST_FRONT_PAUSE", 0.2)
    claims._looked(claims_module.OTHERS, 9.0)
    claims._looked(claims_module.OTHERS, 9.0)
    assert claims.front_pause == 0.2
    until = time.monotonic() + 20
    while claims.front_pause > 0.1:
        assert time.monotonic() < until
        claims._looked(claims_module.SHORT_ONES, 0.0)


def test_a_worker_that_lay_down_looks_once_more_whenever_one_ends_who_may_have_created_unheard(
    database: Database, claims: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, rest, room, _ = parts(database, claims)
    room.measure(FREE, FREE)
    looked: list[bool] = []
    monkeypatch.setattr(looks, "once_more", lambda: looked.append(True))
    first, second, later = (database.connect(autocommit=False) for _ in range(3))
    rest.begin_anew()
    looks.promote_due = float("inf")
    for creator in (first, second):
        tasks.create(creator, "echo", created_by=1)
    assert rest.pause([]) == 0  # it lies down
    tasks.create(later, "echo", created_by=1)  # hears that it sleeps
    assert (0 < rest.pause([]) < 1, len(looked)) == (True, 1)
    second.commit()
    assert (rest.pause([]), len(looked)) == (0, 2)
    assert (0 < rest.pause([]) < 1, len(looked)) == (True, 2)
    first.rollback()
    assert (rest.pause([]), len(looked)) == (0, 3)
    while (pause := rest.pause([])) == 0:  # its first poll
        pass
    assert pause > 1
    assert len(looked) == 3
    later.commit()


def test_what_others_went_before_is_asked_for_before_the_worker_rests(
    database: Database, claims: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgfleet_worker.looks.FRONT_PAUSE", 60.0)
    looks, rest, room, _ = parts(database, claims, slots=2)
    conn = database.connect()
    tasks.create(conn, "echo", created_by=1, priority=5)

    def turn() -> list[int]:
        claimed = looks.claim(room.measure(FREE, FREE))
        room.drop(claimed)
        pauses.append(rest.pause(claimed))
        return [task.id for task in claimed]

    pauses: list[float] = []
    while turn() or pauses[-1] == 0:  # once more after it lay down, and its first poll
        pass
    looks.promote_due = float("inf")
    claims.look_from_the_front = lambda: None  # type: ignore[method-assign]
    claims._front_due = dict.fromkeys(claims._front_due, float("inf"))
    urgent = [tasks.create(conn, "echo", created_by=1, priority=5) for _ in range(3)]
    heard = tasks.create(conn, "echo", created_by=1)
    looks.heard(urgent[:1], overflowed=False)
    assert turn() == urgent[:1]
    looks.heard([heard], overflowed=False)
    assert turn() == urgent[1:]
    assert turn() == []
    assert pauses[-1] == 0
    assert turn() == [heard]
