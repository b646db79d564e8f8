"""The processes that run handlers with ``isolation="process"``: one for each slot that needs one, kept for its next task.

A slot's thread talks to its child (``child_handle.py``), and the child does the work. What ends the child, a crash in a
library, ``os._exit``, the kernel for want of memory, fails the task that it ran and nothing else: the slot's next task gets a
fresh one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from pgfleet.log import Logger
from pgfleet.settings import Settings
from pgfleet_worker.child_handle import Child, Died, Grip
from pgfleet_worker.handler import Handler
from pgfleet_worker.outcome import Told
from pgfleet_worker.task import Surroundings, Task

#: How many children may die before one of them has begun with a task.
TRIES = 3


class Children:
    """The children of a worker's slots. ``lent`` is what their tasks may ask for; ``begun(task)`` is told of each that a
    child has begun with, ``say(child=pid)`` and ``say(reaped=pid)`` what children there are."""

    def __init__(
        self,
        settings: Settings,
        log: Logger,
        lent: Surroundings,
        begun: Callable[[Task], None],
        say: Callable[..., None],
    ) -> None:
        self._settings = settings
        self._log = log
        self._lent = lent
        self._told_begun = begun
        self._say = say
        self._mine = threading.local()
        self._all: set[Child] = set()

    def runner(self, handler: Handler) -> Callable[[Task], Told]:
        """What runs a task of ``handler`` in the child of the thread that calls it."""
        module, most = handler.function.__module__, handler.tasks_per_process

        def run(task: Task) -> Told:
            for left in reversed(range(TRIES)):
                child = self._child()
                task.reins = Grip(child, task)
                try:
                    outcome = child.run(task, module, self._lent, self._told_begun)
                except Died as death:
                    outcome = child.post_mortem(task)
                    self._log.warning("child.died", pid=child.pid, task=task.id, type=task.type, how=child.how)
                    self._drop(child)
                    if left and not death.begun and not task.cancelled:
                        continue  # the task had no part in that
                except BaseException:  # it says what nobody understands, and may go on so in its next task
                    self._drop(child)
                    raise
                else:
                    if child.asked or child.served >= most:
                        self._drop(child)
                break
            return Told(outcome)

        return run

    def close(self) -> None:
        """End all that are there; what runs in them dies with them."""
        for child in list(self._all):
            child.kill()
            child.close()

    def _child(self) -> Child:
        child: Child | None = getattr(self._mine, "child", None)
        if child is not None and not child.is_alive:
            self._drop(child)
            child = None
        if child is None:
            child = self._mine.child = Child(self._settings, self._log, self._say)
            self._all.add(child)
        return child

    def _drop(self, child: Child) -> None:
        child.close()
        self._all.discard(child)
        if getattr(self._mine, "child", None) is child:
            self._mine.child = None
