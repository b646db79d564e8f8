"""What the table says that a worker holds and the worker does not know of: freed, also by a look beside its work."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from pgfleet import log
from pgfleet_worker.attempt import Pace
from pgfleet_worker.room import Room
from pgfleet_worker.unheld import MANY, Unheld
from tests.support.database import Database
from tests.support.fleet import WORKER, Connection, claim, create, register, status


class Busy(Room):
    """One that settles many tasks between any two looks."""

    _settled_ever = 0

    @property
    def settled(self) -> int:
        self._settled_ever += MANY
        return self._settled_ever


class Bench:
    """A worker's record and its looks, over a connection like that of its claims."""

    def __init__(self, database: Database, room: Room) -> None:
        self.conn: Connection = database.connect()
        register(self.conn, WORKER, ["job"])
        self.room = room
        attempts: Any = SimpleNamespace(worker=WORKER)
        self.looks = Unheld(database.settings(), log.get(), attempts, room)
        self.looks.tend(self.conn)  # the one after a connect

    def claim(self, *, known: bool) -> int:
        id = create(self.conn, "job")
        claim(self.conn)
        if known:
            self.room.held[id] = (1, "job")
        return id

    def look(self) -> None:
        """Begin a look now, as if a lease had passed since the last."""
        self.looks._due = time.monotonic()
        self.looks.tend(self.conn)

    def end_look(self) -> None:
        assert self.looks._look is not None
        self.looks._look.join(10)
        self.looks.tend(self.conn)


@pytest.fixture
def busy(database: Database) -> Bench:
    return Bench(database, Busy(4, {"job": Pace()}))


def test_a_worker_at_rest_frees_at_once_what_it_does_not_know_of(database: Database) -> None:
    bench = Bench(database, Room(4, {"job": Pace()}))
    known, unknown = bench.claim(known=True), bench.claim(known=False)
    bench.look()
    assert [status(bench.conn, id) for id in (known, unknown)] == ["started", "fresh"]


def test_a_busy_worker_looks_beside_its_work_and_frees_the_same(busy: Bench) -> None:
    known, unknown = busy.claim(known=True), busy.claim(known=False)
    busy.look()
    assert status(busy.conn, unknown) == "started"  # the look is on its way
    busy.end_look()
    assert [status(busy.conn, id) for id in (known, unknown)] == ["started", "fresh"]


def test_what_a_busy_worker_claims_while_it_looks_stays_its_own(busy: Bench) -> None:
    unknown = busy.claim(known=False)
    busy.look()
    busy.room.held[unknown] = (1, "job")  # as if it had been claimed after the look had begun
    busy.end_look()
    assert status(busy.conn, unknown) == "started"


def test_after_a_reconnect_a_busy_worker_looks_at_once(busy: Bench) -> None:
    unknown = busy.claim(known=False)
    busy.looks.begin_anew()
    busy.looks.tend(busy.conn)
    assert status(busy.conn, unknown) == "fresh"
