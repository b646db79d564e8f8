"""A worker's own record of what it holds, which its loop and its settler change side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from pgfleet_worker.attempt import Pace
from pgfleet_worker.outcome import Claimed, Success
from pgfleet_worker.room import Room

TASK = Claimed(1, "job", None, 0, 1, 0, 0, None, None)


class Interrupted(dict[int, tuple[int, str]]):
    """Whoever looks something up here is interrupted by ``other``, for as long as that can go on before the answer."""

    def __init__(self, content: dict[int, tuple[int, str]], other: Callable[[], object]) -> None:
        super().__init__(content)
        self.thread = threading.Thread(target=other)

    def get(self, id: int, *default: Any) -> Any:
        found = super().get(id, *default)
        if self.thread.ident is None:
            self.thread.start()
            self.thread.join(0.2)  # longer than it takes, where it need not wait for its turn
        return found


@pytest.mark.parametrize("other", ["forget", "drop"])
def test_what_is_struck_out_while_the_settler_acknowledges_it_is_counted_once(other: str) -> None:
    room = Room(1, {"job": Pace()})
    assert room.take([TASK], more=False) == [TASK]
    room.held = held = Interrupted(room.held, room.forget if other == "forget" else lambda: room.drop([TASK]))
    room.acknowledge([Success(1, 1, "w", "job", None)])
    held.thread.join()
    assert held == {}
    assert room._count(["job"]) == 0


def test_an_attempt_that_is_claimed_while_the_one_before_it_is_acknowledged_stays_held() -> None:
    room = Room(1, {"job": Pace()})
    assert room.take([TASK], more=False) == [TASK]
    room.held = held = Interrupted(room.held, lambda: room.take([TASK._replace(attempt=2)], more=False))
    room.acknowledge([Success(1, 1, "w", "job", None)])
    held.thread.join()
    assert held == {1: (2, "job")}
    assert room._count(["job"]) == 1
