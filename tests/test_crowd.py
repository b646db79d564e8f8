"""Of a crowd that hears of a task a few go for it, a few more look later, and two lead: they look for what nobody hears of."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pgfleet import log, tasks, workers
from pgfleet.crowd import CROWD
from pgfleet_worker import contention, turns
from pgfleet_worker.attempt import Pace
from pgfleet_worker.bell import Bell
from pgfleet_worker.claims import Claims
from pgfleet_worker.looks import Looks
from pgfleet_worker.outcome import Claimed, Success
from pgfleet_worker.rest import Rest
from pgfleet_worker.room import Room
from pgfleet_worker.turns import BULK, FIRST, LATER, LEADERS, SECOND, SOON, THIRD, Standing, Turns
from tests.support.database import Database
from tests.support.fleet import WORKER, Connection, register
from tests.support.following import ended
from tests.support.processes import Processes
from tests.support.workers import id_of, sleeping, worker

Wait = Callable[..., Any]
MANY = 200


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(turns, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def crowd(alive: int = MANY) -> list[tuple[Turns, Standing]]:
    return [(Turns(10), Standing(place, alive, alive)) for place in range(alive)]


def going(members: list[tuple[Turns, Standing]], heard: list[int]) -> int:
    """How many go for these ids now."""
    return sum(bool(turns.take(heard, standing)) for turns, standing in members)


def test_of_a_crowd_a_few_go_at_once_and_a_few_more_later(clock: SimpleNamespace) -> None:
    members = crowd()
    assert going(members, [77]) == FIRST + LEADERS
    clock.now += SOON
    assert going(members, []) == SECOND
    clock.now += LATER
    assert going(members, []) == THIRD
    clock.now += 600
    assert going(members, []) == 0


def test_a_bulk_is_looked_for_by_all(clock: SimpleNamespace) -> None:
    members = crowd()
    some = going(members, list(range(100, 100 + BULK)))
    assert some >= FIRST + LEADERS
    clock.now += LATER
    assert some + going(members, []) == MANY


def test_of_a_few_workers_all_look(clock: SimpleNamespace) -> None:
    members = crowd(CROWD)
    first = going(members, [77])
    assert first == FIRST
    clock.now += LATER
    assert first + going(members, []) == CROWD


def test_who_of_a_crowd_that_sleeps_looks_in_vain_again_and_again_looks_ever_later(clock: SimpleNamespace) -> None:
    patient, at = Turns(10), Standing(20, MANY, MANY)
    assert vain_waits(Turns(10), Standing(20, MANY, CROWD), clock) == pytest.approx([0.5] * 5)
    assert vain_waits(patient, at, clock) == pytest.approx([0.5, 1.0, 2.0, 4.0, 4.0])
    patient.claimed()
    patient.take([10], at)
    assert patient.due - clock.now == pytest.approx(0.5)


def vain_waits(patient: Turns, at: Standing, clock: SimpleNamespace) -> list[float]:
    """For how long it waits with its looks at what others have done, five times."""
    waits = []
    for _ in range(5):
        assert patient.take([10], at) == []
        waits.append(patient.due - clock.now)
        clock.now = patient.due
        assert patient.take([], at) == [10]
    return waits


def test_the_same_two_lead_for_many_ids_and_then_others_do(clock: SimpleNamespace) -> None:
    def leaders(id: int) -> list[int]:
        members = crowd()
        going(members, [id])
        return [standing.place for turns, standing in members if turns.leads]

    assert leaders(5) == leaders(60_000)
    assert len(leaders(5)) == LEADERS
    assert not set(leaders(5)) & set(leaders(5 + 4 * (1 << turns.REIGN)))
    assert not any(turns.leads for turns, standing in crowd(CROWD) if turns.take([5], standing))


# -- rest


@pytest.fixture
def claims(database: Database) -> Iterator[Claims]:
    register(database.connect(), WORKER, types=["echo"])
    made = Claims(database.settings(), ["echo"])
    made.connect()
    yield made
    made.close()


class Member:
    """One of a crowd of so many, at rest; not the loop, but what the loop asks."""

    def __init__(
        self, database: Database, claims: Claims, *, alive: int = MANY, leads: bool = False, other: float | None = None
    ) -> None:
        self.pace = Pace()
        self.attempts: Any = SimpleNamespace(worker=WORKER)
        self.room = Room(10, {"echo": self.pace, "other": Pace()})
        self.room._paces["other"].mean = other
        self.turns = Turns(10)
        self.looks = Looks(database.settings(poll=5), log.get(), claims, self.attempts, self.room)
        self.rest = Rest(database.settings(poll=5), self.looks, self.attempts, self.room, self.turns, lambda: 0)
        self.measure()
        self.turns.take([], Standing(0, alive, alive))
        while self.rest.pause([]) == 0:  # once more after it lay down, and its first poll
            pass
        self.looks._owing.clear()
        self.looks.promote_due = float("inf")
        self.turns.leads = leads

    def measure(self) -> None:
        nobody: Any = SimpleNamespace(busy={}, unanswered=0.0, blocked_for=float)
        self.room.measure(nobody, nobody)

    def takes(self, number: int, *, more: bool = False) -> float:
        """It has claimed so many tasks and they are done: how long does it pause?"""
        claimed = [Claimed(n, "echo", None, 1, 1, 0, 0, None, None) for n in range(number)]
        self.room.take(claimed, more=more)
        return self.rest.pause(claimed)


def test_a_crowd_shares_its_polls(database: Database, claims: Claims) -> None:
    assert Member(database, claims, alive=CROWD).rest.poll == 5
    assert Member(database, claims, alive=2 * CROWD).rest.poll == 10
    assert Member(database, claims, alive=10_000).rest.poll == 30
    member = Member(database, claims, alive=10_000)
    member.rest._settings = dataclasses.replace(member.rest._settings, poll=60)
    assert member.rest.poll == 60


def test_who_leads_a_crowd_looks_on_while_it_is_left_in_peace(
    database: Database, claims: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgfleet.crowd.MOST_QUIET", 600.0)
    monkeypatch.setattr("pgfleet.crowd.QUIET", 600.0)
    leader, other = Member(database, claims, leads=True), Member(database, claims)
    for member in (leader, other):
        member.turns.called = member.rest._idle_since = time.monotonic()
        member.rest.pause([])
    assert leader.looks.wanted
    assert not other.looks.wanted


def test_who_leads_rests_like_all_others_when_that_is_over(
    database: Database, claims: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgfleet.crowd.MOST_QUIET", 0.0)
    leader = Member(database, claims, leads=True)
    leader.rest.pause([])
    assert not leader.looks.wanted


@pytest.mark.parametrize("contended", [True, False])
@pytest.mark.parametrize(
    ("mean", "more", "rests"),
    [
        (None, False, "never"),
        (0.0001, False, "always"),
        (0.0001, True, "where it takes a processor from others"),
        (0.005, False, "where it takes a processor from others"),
        (1.0, False, "never"),
    ],
)
def test_one_of_a_crowd_leaves_a_stream_of_short_tasks_to_those_who_lead(
    database: Database, claims: Claims, mean: float | None, more: bool, rests: str, contended: bool
) -> None:
    member = Member(database, claims)
    member.pace.mean = mean
    member.rest._contention = SimpleNamespace(is_high=lambda: contended)  # type: ignore[assignment]
    member.takes(1, more=more)
    assert member.looks.wanted == (rests == "never" or (rests != "always" and not contended))


@pytest.mark.parametrize("who", ["leads", "one of a few", "deaf"])
def test_a_stream_is_left_to_nobody_by(database: Database, claims: Claims, who: str) -> None:
    member = Member(database, claims, leads=who == "leads", alive=CROWD if who == "one of a few" else MANY)
    member.rest.deaf = who == "deaf"
    member.pace.mean = 0.0001
    member.rest._contention = SimpleNamespace(is_high=lambda: True)  # type: ignore[assignment]
    member.takes(1)
    assert member.looks.wanted


def test_a_stream_is_left_to_nobody_while_something_longer_is_held(database: Database, claims: Claims) -> None:
    member = Member(database, claims, other=1.0)
    member.pace.mean = 0.0001
    member.rest._contention = SimpleNamespace(is_high=lambda: True)  # type: ignore[assignment]
    member.room.take([Claimed(99, "other", None, 1, 1, 0, 0, None, None)], more=False)
    member.takes(1)
    assert member.looks.wanted
    member.room.acknowledge([Success(99, 1, WORKER, "other", None, None, None)])
    member.takes(1)
    assert not member.looks.wanted


def test_who_left_more_to_others_than_it_took_sees_after_a_second_whether_they_do_it(
    database: Database, claims: Claims
) -> None:
    member = Member(database, claims)
    member.pace.mean = 0.0001
    member.rest._contention = SimpleNamespace(is_high=lambda: True)  # type: ignore[assignment]
    assert member.takes(1) > 1
    assert member.takes(1, more=True) <= 1


def test_of_many_workers_of_a_node_a_few_go_at_once_for_what_names_it(clock: SimpleNamespace) -> None:
    members = [(Turns(10), Standing(n, MANY, MANY, n, MANY)) for n in range(MANY)]
    assert sum(bool(turns.take([], standing, [77])) for turns, standing in members) == FIRST
    clock.now += LATER
    assert FIRST + going(members, []) == MANY


def test_where_few_of_a_crowd_sleep_all_of_them_look(clock: SimpleNamespace) -> None:
    members = [(Turns(10), Standing(place, MANY, 5)) for place in range(MANY)]
    first = going(members, [77])
    clock.now += LATER
    assert first + going(members, []) == MANY


def test_what_names_the_node_is_not_kept_by_a_worker_that_does_not_ask_for_it(database: Database) -> None:
    bell = Bell(database.settings(node="here"))
    assert bell.connect()
    conn = database.connect()
    register(conn, types=["echo"])
    id = tasks.create(conn, "echo", created_by=1, node="here")
    assert bell.wait(40) == bell.own() == [id]
    bell.wait(0)
    assert bell.own() == []
    bell.close()


def test_whether_a_processor_is_to_be_had_is_read_from_the_kernels_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert contention.ACCOUNT.exists()  # on Linux, where this is tested
    account = tmp_path / "schedstat"
    monkeypatch.setattr(contention, "ACCOUNT", account)
    ours = contention.Contention()
    assert not ours.is_high()
    for text, high in (
        ("5000000 100000 9", False),
        ("6000000 9000000 20", True),
        ("6000100 9000100 21", True),  # too little to tell
        ("9000000 9000200 30", False),
    ):
        account.write_text(text)
        assert ours.is_high() == high


# -- real workers in a crowd that is made up


@pytest.fixture
def conn(database: Database) -> Connection:
    return database.connect()


def fill(conn: Connection, types: list[str], number: int = MANY) -> None:
    """So many workers that sleep and never wake, before any real one."""
    for n in range(number):
        conn.execute("select register_worker(%s, 'elsewhere', %s, 10, '1 hour', 'test')", [f"!{n:04}", types])


def far_from(conn: Connection, place: int) -> None:
    """Let the next task be one that a hundred others of the crowd go for before the worker at that place."""
    id = 5 * (MANY + 1) + place - 100
    conn.execute("select setval(pg_get_serial_sequence('tasks', 'id'), %s, false)", [id])


@pytest.mark.parametrize("way", ["in a transaction", "after the commit"])
def test_a_task_that_names_a_node_is_started_by_its_worker_wherever_that_stands_in_the_crowd(
    conn: Connection, database: Database, processes: Processes, wait_until: Wait, way: str
) -> None:
    fill(conn, ["echo"])
    settings = database.settings(poll=600, node="here")
    worker(processes, "--types", "echo", settings=settings)
    wait_until(sleeping(conn))
    far_from(conn, place=MANY)
    if way == "in a transaction":
        id = tasks.create(conn, "echo", created_by=1, node="here")
    else:
        id, _ = tasks.insert(conn, "echo", created_by=1, node="here")
        tasks.notify(conn, [id])
    assert wait_until(ended(conn, id))["status"] == "success"


def test_a_part_for_all_nodes_is_started_by_each_nodes_worker_wherever_that_stands(
    conn: Connection, database: Database, processes: Processes, wait_until: Wait
) -> None:
    fill(conn, ["echo"])
    worker(processes, "--types", "echo", settings=database.settings(poll=600, node="here"))
    wait_until(sleeping(conn))
    far_from(conn, place=MANY)
    parent = tasks.create_for_all_nodes(conn, "echo", created_by=1)
    query = "select status from tasks where parent = %s and node = 'here'"
    wait_until(lambda: conn.execute(query, [parent]).fetchone() == ("success",))


def test_one_of_a_crowd_obeys_while_it_hears_of_nothing_but_others_tasks(
    conn: Connection, database: Database, processes: Processes, wait_until: Wait
) -> None:
    fill(conn, ["echo"])
    process = worker(processes, "--types", "echo", settings=database.settings(poll=600))
    wait_until(sleeping(conn))
    over = threading.Event()

    def tell_without_a_pause() -> None:
        with database.connect() as other:
            while not over.is_set():
                other.execute("select pg_notify('task_created', %s)", [str(5 * (MANY + 1) + MANY - 100)])

    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(tell_without_a_pause)
        try:
            workers.order_worker(conn, id_of(process), "pause")
            wait_until(lambda: process.events("worker.paused"))
        finally:
            over.set()
        told.result()
    process.popen.terminate()
    assert process.popen.wait(40) == 0
