"""How far an attempt is, and how long the rest may take."""

from __future__ import annotations

import math
import time

#: Seconds between two reports of a task.
PAUSE = 1.0
#: The longest estimate, in seconds: a year.
LONGEST = 365 * 86_400.0
#: The longest step, in characters.
MOST_STEP = 200


def fraction_of(done: float, total: float) -> float:
    """``done`` of ``total``, from 0 to 1: what is too much or too little is cut off. Raises ``ValueError`` for no number."""
    fraction = done / total if total > 0 else 1.0
    if math.isnan(fraction):
        raise ValueError(f"progress({done!r}, {total!r}): expected numbers, done of total")
    return float(min(max(fraction, 0.0), 1.0))


class Course:
    """The reports of one attempt. The pace is this attempt's own: what an earlier one had done counts for nothing.

    ``began`` is when it began (of ``time.perf_counter``), or None for an attempt that goes on from a checkpoint: its work is
    what comes after its first report.
    """

    __slots__ = ("_base", "_last_is_sent", "_sent", "fraction", "moment", "step")

    def __init__(self, began: float | None) -> None:
        self._base: tuple[float, float] | None = None if began is None else (began, 0.0)
        self.fraction = 0.0
        self.step: str | None = None
        self.moment = 0.0
        self._sent = 0.0
        self._last_is_sent = False

    def note(self, done: float, total: float, step: str | None) -> None:
        """``done`` of ``total``. Raises ``ValueError`` for what is no number."""
        self.fraction = fraction_of(done, total)
        self.step = step
        self.moment = time.perf_counter()
        if self._base is None or self.fraction < self._base[1]:
            self._base = self.moment, self.fraction

    @property
    def due(self) -> float:
        """When to send it (of ``time.perf_counter``): the last report at once."""
        return 0.0 if self.is_last else self._sent + PAUSE

    @property
    def is_last(self) -> bool:
        """Is all done, for the first time?"""
        return self.fraction >= 1.0 and not self._last_is_sent

    def mark_sent(self) -> None:
        """It is being sent."""
        self._sent = time.perf_counter()
        self._last_is_sent = self.fraction >= 1.0

    @property
    def time_left(self) -> float | None:
        """Seconds that the rest takes at the pace so far, as of now; None where there is no pace yet."""
        if self._base is None:
            return None
        since, already = self._base
        if self.fraction <= already:
            return None
        left = (1.0 - self.fraction) * (self.moment - since) / (self.fraction - already)
        return min(max(left - (time.perf_counter() - self.moment), 0.0), LONGEST)
