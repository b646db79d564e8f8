"""Waiting for something to become true, with a deadline: the only way a test may let time pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T], timeout: float = 40.0, *, interval: float = 0.01, what: str | None = None
) -> T:
    """Call ``condition`` until it answers something true, and answer that. Times in seconds; long for a busy machine.

    Fails the test at the deadline, naming ``what`` was waited for and the last answer. An AssertionError inside the
    condition counts as "not yet"; any other exception goes through.
    """
    deadline = time.monotonic() + timeout
    last: object = None
    while True:
        try:
            answer = condition()
            if answer:
                return answer
            last = answer
        except AssertionError as error:
            last = error
        if time.monotonic() > deadline:
            name = what or getattr(condition, "__name__", "the condition")
            raise AssertionError(f"{name} did not come true within {timeout:g} s; last answer: {last!r}")
        time.sleep(interval)
