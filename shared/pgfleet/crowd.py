"""A crowd of sleeping workers, and how rarely it is woken: what the API and the workers go by alike.

Each listener hears every notification, and each that does costs the server a tenth of a millisecond: one that wakes 200 costs
20 ms. So whoever tells a crowd of a task keeps quiet afterwards, the longer the larger the crowd
(:mod:`pgfleet_api.notifier`), and those who lead it look for what comes meanwhile (:mod:`pgfleet_worker.rest`).
"""

from __future__ import annotations

#: More workers than this are a crowd.
CROWD = 20
#: Sleepers that may be woken by every task.
FEW = 2
#: Seconds without a notification after one that woke more than a few: at least, for each that slept, and for each of a crowd.
QUIET = 0.005
QUIET_EACH = 50e-6
QUIET_EACH_OF_CROWD = 0.001
MOST_QUIET = 0.2


def quiet_after(sleepers: int) -> float:
    """Seconds for which nobody is told of tasks of the same type after a notification that so many workers hear."""
    if sleepers <= FEW:
        return 0.0
    each = QUIET_EACH_OF_CROWD if sleepers > CROWD else QUIET_EACH
    return min(QUIET + sleepers * each, MOST_QUIET)
