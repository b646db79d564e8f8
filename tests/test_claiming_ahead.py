"""How much is claimed ahead of short tasks, and in what portions."""

from __future__ import annotations

import time

from pgfleet_worker.aio import AsyncSlots
from pgfleet_worker.attempt import Pace
from pgfleet_worker.claims import OTHERS, SHORT_ONES
from pgfleet_worker.outcome import Claimed, Success
from pgfleet_worker.room import MOST_AHEAD, MOST_AT_ONCE, Room
from pgfleet_worker.slots import ThreadSlots


async def _nothing(task: Claimed) -> None:
    """Never called."""


def test_short_tasks_are_claimed_in_portions_however_much_room_there_is() -> None:
    pace = Pace()
    pace.observe(0.000001)
    room = Room(10, {"noop": pace})
    threads = ThreadSlots(10, lambda task: None)
    coroutines = AsyncSlots(10, _nothing, lambda task: None)
    tasks = [Claimed(id, "noop", None, 0, 1, 0, 0, None, None) for id in range(2 * MOST_AHEAD)]

    deadline = time.monotonic() + 40
    while room.measure(threads, coroutines) < 2 * MOST_AT_ONCE:
        assert time.monotonic() < deadline, "the pace was never measured"
        assert room.take(tasks, more=True) == tasks
        room.acknowledge([Success(task.id, task.attempt, "w", "noop", None) for task in tasks])
    assert [ask.quantity for ask in room.asks(thorough=True)] == [MOST_AT_ONCE]

    room.take(tasks[:MOST_AT_ONCE], more=True)
    assert room.has_more, "the rest of the room is claimed at once"


def test_no_more_short_tasks_are_claimed_ahead_than_slots_that_longer_ones_leave() -> None:
    short, long = Pace(), Pace()
    short.observe(0.005)
    long.observe(60.0)
    room = Room(10, {"short": short, "long": long})
    threads = ThreadSlots(10, lambda task: None)
    coroutines = AsyncSlots(10, _nothing, lambda task: None)
    room.take([Claimed(n, "long", None, 1, 1, 0, 0, None, None) for n in range(9)], more=True)
    threads.busy.update(dict.fromkeys(range(9), time.monotonic() - 1))
    room.measure(threads, coroutines)
    assert [(ask.kind, ask.quantity) for ask in room.asks(thorough=True)] == [(OTHERS, 1), (SHORT_ONES, 2)]


def test_types_that_are_not_short_are_asked_for_at_a_claim_that_must_ask_for_all() -> None:
    short, long = Pace(), Pace()
    short.observe(0.001)
    long.observe(1.0)
    room = Room(10, {"short": short, "long": long})
    kinds = []
    for all_types in (False, False, True):
        room.measure(ThreadSlots(10, lambda task: None), AsyncSlots(10, _nothing, lambda task: None))
        if room._long_due:
            room._long_due += 1000  # the pause between two looks for others goes on
        kinds.append([ask.kind for ask in room.asks(thorough=False, all_types=all_types)])
    assert kinds == [[OTHERS, SHORT_ONES], [SHORT_ONES], [OTHERS, SHORT_ONES]]
