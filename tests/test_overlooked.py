"""What lanes pass over is found beside the work, where a claim from the queue's front would hold it up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pgfleet import log
from pgfleet_worker import claims as module
from pgfleet_worker import overlooked
from pgfleet_worker.attempt import Pace
from pgfleet_worker.claims import Claims
from pgfleet_worker.looks import Looks
from pgfleet_worker.room import Room
from tests.support.database import Database
from tests.support.fleet import OTHER, WORKER, Connection, claim, column, create, register, status

Wait = Callable[..., Any]


@pytest.fixture
def conn(database: Database) -> Connection:
    conn = database.connect()
    register(conn, WORKER, ["job", "other"])
    return conn


@pytest.fixture
def rung() -> threading.Event:
    return threading.Event()


@pytest.fixture
def claims(
    database: Database, conn: Connection, rung: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Claims]:
    """Claims that have looked from the front once, to which each further such look is due and dear."""
    monkeypatch.setattr(module, "DEAR", -1.0)
    monkeypatch.setattr(module, "FRONT_PAUSE", 0.0)
    monkeypatch.setattr(module, "FRONT_SHARE", float("inf"))
    made = Claims(database.settings(), ["job", "other"], ring=rung.set)
    made.connect()
    made.front(WORKER, 1)
    yield made
    made.close()


@pytest.fixture
def gate(database: Database, conn: Connection) -> Connection:
    """Holds every look up until it is closed."""
    conn.execute(
        """do $$ begin execute replace(pg_get_functiondef('overlooked_tasks'::regproc), 'overlooked_tasks', 'looked'); end $$;
        drop function overlooked_tasks;
        create function overlooked_tasks(text, text[], integer, text[], integer[], bigint[]) returns table (id bigint)
        language plpgsql as
        'begin perform pg_advisory_xact_lock(4712); return query select * from looked($1, $2, $3, $4, $5, $6); end'"""
    )
    gate = database.connect()
    gate.execute("select pg_advisory_lock(4712)")
    return gate


def ids(claimed: list[Any]) -> list[int]:
    return [task.id for task in claimed]


def over(claims: Claims, rung: threading.Event) -> overlooked.Found:
    assert rung.wait(40)
    rung.clear()
    found = claims.found()
    assert found is not None
    assert claims.found() is None
    return found


def test_what_lanes_pass_over_is_told_in_the_order_of_a_claim_from_the_front(conn: Connection) -> None:
    early, reached, late = (create(conn) for _ in range(3))
    no_lane = create(conn, "other")
    urgent = create(conn, "other", priority=5)
    near, far = create(conn, node="node"), create(conn, node="elsewhere")
    foreign = create(conn, "foreign") if conn.execute("select register_type('foreign')") else 0
    lanes = {"types": ["job"], "priorities": [0], "after": [reached]}
    query = "select id from overlooked_tasks(%s, '{job,other}', %s, %s, %s, %s)"
    assert column(conn, query, WORKER, 9, *lanes.values()) == [urgent, early, reached, no_lane, near]
    assert column(conn, query, WORKER, 1, *lanes.values()) == [urgent, early, near]
    assert {status(conn, id) for id in (early, late, far, foreign)} == {"fresh"}


def test_a_worker_that_takes_only_what_names_its_node_overlooks_nothing_else(conn: Connection) -> None:
    conn.execute("update workers set only_targeted = true")
    create(conn)
    near = create(conn, node="node")
    assert column(conn, "select id from overlooked_tasks(%s, '{job}', 9, '{}', '{}', '{}')", WORKER) == [near]


def test_claims_go_on_while_a_dear_look_is_under_way(
    conn: Connection, database: Database, claims: Claims, rung: threading.Event, gate: Connection
) -> None:
    slow = database.connect(autocommit=False)
    passed = create(slow)
    assert ids(claims.front(WORKER, 9)) == []
    mark = create(conn)
    assert ids(claims.front(WORKER, 9)) == [mark]
    slow.commit()
    for _ in range(3):
        new = create(conn)
        assert ids(claims.next(WORKER, 9)) == [new]
        assert not claims.from_front
    create(conn)  # ready, and in its lane
    assert claims.found() is None
    gate.close()
    found = over(claims, rung)
    assert (found.ids, found.all) == ([passed], True)
    assert ids(claims.by_ids(WORKER, found.ids, 9)) == [passed]


def test_what_is_found_in_no_lane_makes_one(conn: Connection, claims: Claims, rung: threading.Event) -> None:
    both = [create(conn, "other") for _ in range(2)]
    assert claims.next(WORKER, 9) == []
    assert ids(claims.by_ids(WORKER, over(claims, rung).ids, 9)) == both
    third = create(conn, "other")
    assert ids(claims.next(WORKER, 9)) == [third]


def test_a_task_for_this_node_moves_no_lane_past_what_is_ready_there(
    conn: Connection, claims: Claims, rung: threading.Event
) -> None:
    first = create(conn)
    assert ids(claims.front(WORKER, 1)) == [first]
    before, near, behind = create(conn), create(conn, node="node"), create(conn)
    claims.next(WORKER, 0)
    found = over(claims, rung)
    assert found.ids == [near]
    assert ids(claims.by_ids(WORKER, found.ids, 9)) == [near]
    assert ids(claims.next(WORKER, 9)) == [before, behind]


def test_after_a_look_that_failed_the_next_is_a_claim(
    conn: Connection, claims: Claims, rung: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AGAIN", 0.0)
    monkeypatch.setattr(module, "MOST_FRONT_PAUSE", 0.0)
    conn.execute("alter function overlooked_tasks rename to gone")
    claims.next(WORKER, 9)
    found = over(claims, rung)
    assert (found.ids, found.seconds, found.all) == ([], None, False)
    monkeypatch.setattr(module, "DEAR", 0.01)
    passed = create(conn)
    assert ids(claims.next(WORKER, 9)) == [passed]
    assert claims.from_front


def test_a_look_that_must_leave_nothing_out_is_made_at_once_beside_the_work(
    conn: Connection, claims: Claims, rung: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FRONT_PAUSE", 30.0)
    claims.next(WORKER, 9)
    over(claims, rung)
    passed = create(conn)
    assert claims.next(WORKER, 9) == []
    assert claims.front_in > 20
    claims.look_from_the_front()
    assert claims.next(WORKER, 9) == []
    assert not claims.from_front
    assert over(claims, rung).ids == [passed]
    assert claims.front_in > 20


def test_a_look_under_way_is_not_enough_for_one_that_must_leave_nothing_out(
    conn: Connection, claims: Claims, rung: threading.Event, gate: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FRONT_PAUSE", 30.0)
    claims.next(WORKER, 9)
    claims.look_from_the_front()
    claims.next(WORKER, 9)
    gate.close()
    over(claims, rung)
    assert claims.front_in < 0
    passed = create(conn)
    claims.next(WORKER, 9)
    assert over(claims, rung).ids == [passed]
    assert claims.front_in > 20


@pytest.fixture
def looks(database: Database, claims: Claims) -> Looks:
    attempts: Any = SimpleNamespace(worker=WORKER)
    return Looks(database.settings(), log.get(), claims, attempts, Room(9, {"job": Pace(), "other": Pace()}))


def look(looks: Looks, room: int) -> list[int]:
    """The ids claimed in a turn of a worker with so many free slots, all given back to it at once."""
    made = looks._room
    made._slots = room
    made.measure(
        SimpleNamespace(busy={}, unanswered=0.0, blocked_for=float),
        SimpleNamespace(busy={}, unanswered=0.0, blocked_for=float),
    )  # type: ignore[arg-type]
    claimed = looks.claim(room)
    made.drop(claimed)
    return ids(claimed)


@pytest.mark.parametrize("room", [1, 9])
def test_a_worker_takes_what_was_found_as_it_has_room_and_owes_no_look_that_began_since(
    conn: Connection, looks: Looks, rung: threading.Event, wait_until: Wait, room: int
) -> None:
    looks.heard([], overflowed=True)
    assert looks.owed
    passed = [create(conn) for _ in range(3)]
    assert look(looks, room) == []
    assert rung.wait(40)
    taken: list[int] = []
    wait_until(lambda: taken.extend(look(looks, room)) or len(taken) == len(passed))  # type: ignore[func-returns-value]
    assert taken == passed
    assert not looks.owed


def test_where_others_took_the_first_of_what_was_found_the_rest_is_taken(
    conn: Connection, looks: Looks, rung: threading.Event
) -> None:
    passed = [create(conn) for _ in range(4)]
    assert look(looks, 2) == []
    assert rung.wait(40)
    assert claim(conn, 2, worker=register(conn, OTHER)) == passed[:2]
    looks.wanted = False
    assert look(looks, 2) == passed[2:]


def test_what_was_found_does_not_go_before_what_is_more_urgent(
    conn: Connection, claims: Claims, looks: Looks, rung: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgfleet_worker.looks.FRONT_PAUSE", 0.0)
    passed = [create(conn) for _ in range(2)]
    mark = create(conn, priority=5)
    assert ids(claims.front(WORKER, 1)) == [mark]
    urgent = [create(conn, priority=5) for _ in range(5)]
    assert look(looks, 2) == urgent[:2]
    assert rung.wait(40)
    assert look(looks, 2) == urgent[2:4]
    assert look(looks, 2) == [urgent[4], passed[0]]
    assert look(looks, 2) == [passed[1]]


def test_a_more_urgent_task_that_is_heard_of_passes_what_is_known_to_be_ready_at_once(
    conn: Connection, claims: Claims, looks: Looks, gate: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgfleet_worker.looks.FRONT_PAUSE", 0.0)
    mark = create(conn)
    assert ids(claims.front(WORKER, 1)) == [mark]
    backlog = [create(conn) for _ in range(5)]
    assert look(looks, 2) == backlog[:2]
    urgent, near, low = create(conn, "other", priority=5), create(conn, node="node"), create(conn, priority=-1)
    looks.heard([urgent, near, low], overflowed=False)
    assert look(looks, 2) == [urgent, backlog[2]]
    assert look(looks, 9) == [*backlog[3:], near, low]
    assert not claims.from_front


def test_an_id_is_not_given_up_for_one_that_another_is_just_claiming(
    conn: Connection, database: Database, claims: Claims, looks: Looks, gate: Connection
) -> None:
    mark = create(conn)
    assert ids(claims.front(WORKER, 1)) == [mark]
    backlog = [create(conn) for _ in range(2)]
    assert look(looks, 1) == backlog[:1]
    first, second = create(conn, "other", priority=9), create(conn, "other", priority=5)
    register(conn, OTHER, ["other"])
    rival = database.connect()
    with rival.transaction():
        assert column(rival, "select id from claim_tasks(%s, '{other}', 1, ids => %s)", OTHER, [first]) == [first]
        looks.heard([first, second], overflowed=False)
        assert look(looks, 1) == []
    assert look(looks, 1) == [second]
    assert look(looks, 1) == backlog[1:]


def test_a_look_that_began_before_it_was_owed_leaves_it_owed(
    conn: Connection, looks: Looks, rung: threading.Event, gate: Connection
) -> None:
    look(looks, 9)
    looks.heard([], overflowed=True)
    gate.close()
    assert rung.wait(40)
    looks.wanted = False
    looks.claim(9)
    assert looks.owed


def test_types_that_change_between_short_and_long_are_not_looked_for_anew_each_time(
    database: Database, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FRONT_PAUSE", 3600.0)
    monkeypatch.setattr(module, "MOST_FRONT_PAUSE", 3600.0)
    made = Claims(database.settings(), ["job", "other"])
    made.connect()
    looks = []
    for types in (("job", "other"), ("job",), ("other",), ("job", "other")):
        for kind in (module.SHORT_ONES, module.OTHERS):
            made.next(WORKER, 1, types, kind)
            looks.append(made.from_front)
    made.close()
    assert looks == [True, True, False, False, False, False, False, False]
