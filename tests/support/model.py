"""What sql/README.md says of tasks and workers, as plain Python: the model that the SQL functions are held against.

An operation changes the model and answers what the SQL function must answer, or the SQLSTATE it must refuse with. Time is
two-valued: a waiting task is due or not, a lease holds or has lapsed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

#: What each type allows its tasks to lose workers.
MAX_CRASHES = {"job": 1, "tea": 0}
UNFINISHED = ("waiting", "fresh", "started")

Fence = tuple[int, int]  # task, attempt


@dataclass
class Task:
    """What is compared with a row of ``tasks``, and the attempts before the one in it."""

    id: int
    type: str
    priority: int
    max_retries: int
    unique_key: str | None
    status: str
    due: bool = True  # while it waits
    pauses: bool = False  # before a retry; else that is due at once
    worker: str | None = None
    attempt: int = 0
    failure_count: int = 0
    crash_count: int = 0
    called_off: bool = False
    progress: float | None = None
    checkpoint: str | None = None
    history: list[tuple[int, str, str]] = field(default_factory=list)  # attempt, worker, how it ended

    def keep(self, ended: str) -> None:
        """The attempt in hand makes way."""
        assert self.worker is not None
        self.history.append((self.attempt, self.worker, ended))
        self.worker = None

    def attempts(self) -> list[int]:
        """The numbers of all attempts that have a record."""
        return [number for number, _, _ in self.history] + ([self.attempt] if self.worker else [])


class Fleet:
    """Tasks by id; workers by id, each ``live``, ``lapsed`` (nobody has noticed yet) or ``lost``."""

    def __init__(self) -> None:
        self.tasks: dict[int, Task] = {}
        self.workers: dict[str, str] = {}

    def holder(self, type: str, unique_key: str | None) -> Task | None:
        """The unfinished task that keeps others from this key."""
        same = (t for t in self.tasks.values() if (t.type, t.unique_key) == (type, unique_key))
        return next((t for t in same if unique_key is not None and t.status in UNFINISHED), None)

    def held(self, worker: str, fence: Fence) -> Task | None:
        """The fence itself."""
        task = self.tasks[fence[0]]
        return task if (task.status, task.worker, task.attempt) == ("started", worker, fence[1]) else None

    # Workers

    def claim(
        self, worker: str, types: Sequence[str], quantity: int, ids: Iterable[int] | None = None
    ) -> str | list[tuple[int, int, str | None]]:
        """(id, attempt, checkpoint) of each, the most urgent first."""
        if self.workers.get(worker) != "live":
            return "PF005"
        ready = [t for t in self.tasks.values() if t.status == "fresh" and t.type in types]
        if ids is not None:
            wanted = set(ids)
            ready = [t for t in ready if t.id in wanted]
        taken = sorted(ready, key=lambda t: (-t.priority, t.id))[:quantity]
        for task in taken:
            task.status, task.worker, task.attempt = "started", worker, task.attempt + 1
        return [(t.id, t.attempt, t.checkpoint) for t in taken]

    def finish(self, worker: str, fences: Sequence[Fence]) -> list[int]:
        """The ids that were not held, and had not been finished by this very attempt."""
        lost = []
        for fence in fences:
            task = self.held(worker, fence)
            if task is not None:
                task.status, task.checkpoint = "success", None
                task.progress = None if task.progress is None else 1.0
                continue
            task = self.tasks[fence[0]]
            if (task.status, task.worker, task.attempt) != ("success", worker, fence[1]):
                lost.append(fence[0])
        return lost

    def fail(self, worker: str, fence: Fence, give_up: bool) -> str:
        """The status it leaves the task in."""
        task = self.held(worker, fence)
        if task is None:
            return "PF004"
        if task.called_off:
            task.status = "cancelled"
            return task.status
        again = not give_up and task.failure_count < task.max_retries
        task.failure_count += 1
        if again:
            task.keep("failure")
            task.status, task.due = "waiting", not task.pauses
        else:
            task.status = "failure"
        return task.status

    def release(self, worker: str, fences: Iterable[Fence], delayed: bool = False) -> int:
        """How many were held."""
        held = [task for fence in fences if (task := self.held(worker, fence)) is not None]
        for task in held:
            if task.called_off:
                task.status = "cancelled"
            else:
                task.keep("released")
                task.status, task.due = ("waiting", False) if delayed else ("fresh", True)
        return len(held)

    def release_unheld(self, worker: str, fences: Iterable[Fence]) -> int:
        own = set(fences)
        return self.release(worker, [f for t in self.tasks.values() if (f := (t.id, t.attempt)) not in own])

    def end_cancelled(self, worker: str, fence: Fence) -> str | None:
        task = self.tasks[fence[0]]
        if (task.status, task.worker, task.attempt) == ("cancelled", worker, fence[1]):
            return None
        if self.held(worker, fence) is None:
            return "PF004"
        if not task.called_off:
            return "PF003"
        task.status = "cancelled"
        return None

    def report(self, worker: str, fence: Fence, **changes: object) -> str | bool:
        """Progress or a checkpoint; answers whether the task was called off."""
        task = self.held(worker, fence)
        if task is None:
            return "PF004"
        for name, value in changes.items():
            setattr(task, name, value)
        return task.called_off

    def orders(self, worker: str) -> str | list[Fence]:
        if self.workers.get(worker) in (None, "lost"):
            return "PF005"
        return [
            (t.id, t.attempt)
            for t in self.tasks.values()
            if t.worker == worker and t.status == "started" and t.called_off
        ]

    def renew(self, worker: str) -> str | None:
        if self.workers.get(worker) in (None, "lost"):
            return "PF005"
        self.workers[worker] = "live"
        return None

    def deregister(self, worker: str) -> bool:
        """Was there such a worker?"""
        self.release_unheld(worker, [])
        return self.workers.pop(worker, None) is not None

    def rescue(self) -> set[tuple[int, str, str, int]]:
        """(id, status, worker, attempt) of each rescued task."""
        rescued = set()
        gone = {worker for worker, state in self.workers.items() if state != "live"}
        for task in self.tasks.values():
            if task.status != "started" or task.worker not in gone:
                continue
            worker, poison = task.worker, task.crash_count >= MAX_CRASHES[task.type]
            task.crash_count += 1
            if task.called_off or poison:
                task.status = "cancelled" if task.called_off else "crashed"
            else:
                task.keep("lost")
                task.status = "fresh"
            rescued.add((task.id, task.status, worker, task.attempt))
        self.workers.update(dict.fromkeys(gone, "lost"))
        return rescued

    def promote(self) -> int:
        due = [t for t in self.tasks.values() if t.status == "waiting" and t.due]
        for task in due:
            task.status = "fresh"
        return len(due)

    # Operators

    def cancel(self, id: int) -> str:
        task = self.tasks[id]
        if task.status in ("waiting", "fresh"):
            task.status = "cancelled"
        elif task.status == "started":
            task.called_off = True
        else:
            return "PF003"
        return task.status

    def retry(self, id: int, reset_failure_count: bool = False) -> str | None:
        task = self.tasks[id]
        if task.status not in ("failure", "crashed", "cancelled") or self.holder(task.type, task.unique_key):
            return "PF003"
        if task.worker is not None:
            task.keep(task.status)
        task.status, task.called_off, task.crash_count = "fresh", False, 0
        task.progress = task.checkpoint = None
        if reset_failure_count:
            task.failure_count = 0
        return None

    def resume(self, id: int) -> str | None:
        task = self.tasks[id]
        reached = task.progress, task.checkpoint
        if task.status != "crashed" or self.retry(id) is not None:
            return "PF003"
        task.progress, task.checkpoint = reached
        return None

    def configure(self, id: int, max_retries: int) -> str | None:
        task = self.tasks[id]
        if task.status in ("success", "cancelled"):
            return "PF003"
        task.max_retries = max_retries
        return None
