"""A crowd of sleeping workers is told of what nobody has claimed, now and then; of each kind of task by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from psycopg.sql import SQL, Identifier

from pgfleet import tasks
from pgfleet.crowd import CROWD, quiet_after
from pgfleet.settings import Settings
from pgfleet_api import notifier as module
from pgfleet_api.notifier import FIRST_TOLD, MOST_TOLD, Kind, Notifier
from tests.support.database import Database
from tests.support.fleet import Connection, claim, register

JOB: Kind = ("job", None)
Wait = Callable[..., Any]


@pytest.fixture
def conn(database: Database) -> Connection:
    """A crowd of sleeping workers."""
    conn = database.connect()
    for n in range(CROWD + 1):
        register(conn, f"w:{n}", types=["job", "tea"])
    return conn


@pytest.fixture
def ear(database: Database) -> Connection:
    ear = database.connect()
    ear.execute("listen task_created")
    return ear


class Rounds:
    """What the notifier has asked for and told, in turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[list[int]] = []
        self.told: list[list[int]] = []
        unclaimed, notify = tasks.unclaimed, tasks.notify

        def ask(conn: Any, ids: list[int]) -> list[int] | None:
            answer = unclaimed(conn, ids)
            self.asked.append(list(ids))
            return answer

        def tell(conn: Any, ids: list[int]) -> int:
            self.told.append(list(ids))
            return notify(conn, ids)

        monkeypatch.setattr("pgfleet.tasks.unclaimed", ask)
        monkeypatch.setattr("pgfleet.tasks.notify", tell)


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> Rounds:
    return Rounds(monkeypatch)


@pytest.fixture
def notifier(conn: Connection, settings: Settings) -> Iterator[Notifier]:
    """One that has just woken the crowd for a job."""
    made = Notifier(settings)
    assert made.take_turn([JOB])
    made.told([JOB], CROWD + 1)
    yield made
    made.stop()


def insert(conn: Connection, type: str = "job", **options: Any) -> int:
    return tasks.insert(conn, type, created_by=1, **options)[0]


def heard(ear: Connection, number: int) -> list[int]:
    return [int(note.payload) for note in ear.notifies(timeout=40, stop_after=number)]


def test_the_larger_the_crowd_the_longer_it_is_left_in_peace() -> None:
    assert quiet_after(2) == 0
    assert quiet_after(CROWD) < quiet_after(CROWD + 1) < quiet_after(150) < quiet_after(10_000) == quiet_after(100_000)


def test_what_others_have_claimed_meanwhile_is_told_to_nobody(
    conn: Connection, notifier: Notifier, rounds: Rounds, wait_until: Wait
) -> None:
    ids = [insert(conn), insert(conn)]
    assert sorted(claim(conn, 2, worker="w:0")) == ids
    notifier.tell([(id, JOB) for id in ids])
    wait_until(lambda: rounds.asked == [ids])
    notifier.stop()
    assert rounds.told == []


def test_what_nobody_has_claimed_is_told_after_the_pause(
    conn: Connection, notifier: Notifier, ear: Connection, rounds: Rounds
) -> None:
    id = insert(conn)
    notifier.tell([(id, JOB)])
    assert heard(ear, 1) == [id]
    assert (rounds.asked, rounds.told) == ([[id]], [[id]])


def test_a_delayed_task_is_told_so_that_somebody_knows_when_it_is_due(
    conn: Connection, notifier: Notifier, ear: Connection
) -> None:
    id = insert(conn, run_at="2999-01-01")
    notifier.tell([(id, JOB)])
    assert heard(ear, 1) == [id]


def test_what_is_left_while_others_are_claimed_is_told_only_where_it_is_left_again(
    conn: Connection, notifier: Notifier, ear: Connection, rounds: Rounds
) -> None:
    ids = [insert(conn), insert(conn), insert(conn)]
    claim(conn, 1, worker="w:0")
    notifier.tell([(id, JOB) for id in ids])
    assert sorted(heard(ear, 2)) == ids[1:]
    assert rounds.asked == [ids, ids[1:]]
    assert rounds.told == [ids[1:]]


def test_listeners_of_ones_own_hear_of_what_was_claimed_meanwhile_too(
    conn: Connection, ear: Connection, settings: Settings
) -> None:
    conn.execute(SQL("alter database {} set pgfleet.notify = 'always'").format(Identifier(conn.info.dbname)))
    notifier = Notifier(settings)
    notifier.told([JOB], CROWD + 1)
    ids = [insert(conn) for _ in range(100)]
    assert sorted(claim(conn, 100, worker="w:0")) == ids
    notifier.tell([(id, JOB) for id in ids])
    assert heard(ear, 100) == ids
    notifier.stop()


def test_more_are_told_each_time_until_all_have_been_and_each_is_told_once(
    conn: Connection, notifier: Notifier, ear: Connection, rounds: Rounds
) -> None:
    ids = [insert(conn) for _ in range(200)]
    notifier.tell([(id, JOB) for id in ids])
    assert heard(ear, 200) == ids
    sizes = [len(told) for told in rounds.told]
    assert sizes == [FIRST_TOLD, 2 * FIRST_TOLD, 4 * FIRST_TOLD, MOST_TOLD, MOST_TOLD, 16]


def test_what_is_behind_many_that_were_claimed_does_not_wait_for_a_pause_each(
    conn: Connection, notifier: Notifier, ear: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_ASKED", 10)
    monkeypatch.setattr(module, "YOUNG", 0.0)
    ids = [insert(conn) for _ in range(100)]
    claim(conn, 99, worker="w:0")
    monkeypatch.setattr("pgfleet.crowd.MOST_QUIET", 600.0)  # of the pauses to come, not of the one under way
    monkeypatch.setattr("pgfleet.crowd.QUIET", 600.0)
    notifier.tell([(id, JOB) for id in ids])
    assert heard(ear, 1) == ids[99:]


@pytest.mark.parametrize("other", [("tea", None), ("job", "elsewhere")], ids=["of another type", "for a node"])
def test_a_task_of_another_kind_does_not_wait_for_the_pause(
    conn: Connection, notifier: Notifier, ear: Connection, monkeypatch: pytest.MonkeyPatch, other: Kind
) -> None:
    monkeypatch.setattr("pgfleet.crowd.MOST_QUIET", 600.0)
    monkeypatch.setattr("pgfleet.crowd.QUIET", 600.0)
    notifier.told([JOB], CROWD + 1)
    assert not notifier.take_turn([JOB])
    notifier.tell([(insert(conn), JOB)])
    id = insert(conn, other[0], node=other[1])
    notifier.tell([(id, other)])
    assert heard(ear, 1) == [id]
    assert notifier.take_turn([("coffee", None), JOB])


def test_a_stopping_api_tells_of_all_that_nobody_has_claimed(
    conn: Connection, notifier: Notifier, ear: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgfleet.crowd.MOST_QUIET", 600.0)
    monkeypatch.setattr("pgfleet.crowd.QUIET", 600.0)
    notifier.told([JOB], CROWD + 1)
    ids = [insert(conn) for _ in range(300)]
    claim(conn, 1, worker="w:0")
    notifier.tell([(id, JOB) for id in ids])
    notifier.stop(40)
    assert heard(ear, 299) == ids[1:]


def test_kinds_that_nobody_asks_for_any_more_are_forgotten(
    conn: Connection, notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_KINDS", 10)
    for n in range(100):
        notifier.told([(f"type {n}", None)], 0)
    assert len(notifier._lines) <= 11
