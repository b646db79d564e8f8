"""How many threads may wait at once for what may take as long as it likes, so that others are left for all else.

A client that sends or takes its bytes slowly holds a thread meanwhile, and the server has no timeout for either; a task with a
unique key waits for whoever else is creating one of that key.
"""

from __future__ import annotations

from queue import Empty, SimpleQueue

from pgfleet_api.errors import Refused

#: Threads that are left for all else, where there are that many.
LEFT = 2
#: Seconds to wait for a place: most are held for a moment.
CROWDED = 0.5


class Places:
    """So many may be taken at once; one more waits for a moment and is refused (503). Thread-safe.

    Each is one of ``within``'s as well. As a context manager it takes one for a while.
    """

    def __init__(self, number: int, message: str, within: Places | None = None) -> None:
        # Of tokens; not a semaphore, whose Python would be in the way of every request with a body.
        self._free: SimpleQueue[None] = SimpleQueue()
        for _ in range(max(1, number)):
            self._free.put(None)
        self._message = message
        self._within = within

    def take(self) -> None:
        """Take one, as soon as there is one. Raises :class:`~pgfleet_api.errors.Refused`."""
        try:
            self._free.get(timeout=CROWDED)
        except Empty:
            raise Refused(503, self._message) from None
        if self._within is not None:
            try:
                self._within.take()
            except Refused:
                self._free.put(None)
                raise

    def give_back(self) -> None:
        """Give it back, from any thread, once."""
        if self._within is not None:
            self._within.give_back()
        self._free.put(None)

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, *_: object) -> None:
        self.give_back()


def for_bodies(threads: int) -> Places:
    """For the bodies of requests that are still to come; those below are among them."""
    return Places(threads - LEFT, "Too many requests wait for bodies that have not come yet, or take long otherwise.")


def for_downloads(threads: int, bodies: Places) -> Places:
    """For downloads that are too large to be handed to the server at once."""
    return _some(threads, bodies, "Too many files are being downloaded.")


def for_keyed(threads: int, bodies: Places) -> Places:
    """For tasks with a unique key, while they are inserted."""
    return _some(threads, bodies, "Too many tasks with a unique_key are being created at once, or wait for its holder.")


def _some(threads: int, bodies: Places, message: str) -> Places:
    """Half of the threads, of those that bodies may hold, but for one. A few threads are not shared out like that."""
    most = threads - LEFT - 1
    return Places(min(threads // 2, most), message, bodies) if most > 0 else Places(threads // 2, message)
