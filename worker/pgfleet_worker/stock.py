"""What of a :class:`~pgfleet_worker.scheduler.Scheduler` is in Postgres: its type, and its persistent tasks as schedules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pgfleet import db, migrate, schedules, sql, tasks
from pgfleet.errors import InvalidSchedule, ScheduleNotFound, WrongState
from pgfleet.settings import Settings
from pgfleet_worker.handler import Handler
from pgfleet_worker.scheduled import Task, schedule_of


class Stock:
    """The stock of the schedulers called ``name``: in any number of processes, they share it."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self._name = name

    @contextmanager
    def connect(self) -> Iterator[db.Connection]:
        """A connection of its own. Raises :class:`~pgfleet.errors.DatabaseAway`."""
        with db.connect(self._settings, f"pgfleet {self._name}") as conn:
            yield conn

    def open(self, handler: Handler, most: int | None) -> None:
        """Make the type known, which must be before its schedules can be put; ``most`` of its tasks run at a time.

        Raises :class:`~pgfleet.errors.SchemaError`.
        """
        with self.connect() as conn:
            migrate.require_current(conn, self._settings)
            db.call(
                conn,
                sql.queries("workers")["register_type"],
                name=handler.type,
                description=handler.description,
                for_readers=handler.for_readers,
                max_retries=handler.max_retries,
                retry_delay=handler.retry_delay,
                timeout=handler.timeout,
                max_running=most,
            )
            if most is not None:
                tasks.configure_type(conn, handler.type, max_running=most)

    def put(self, added: Sequence[Task]) -> None:
        """Put them, all or none. Raises :class:`~pgfleet.errors.InvalidSchedule` where one of that name is somebody else's."""
        with self.connect() as conn, conn.transaction():
            for task in added:
                try:
                    there = schedules.get(conn, task.id)
                except ScheduleNotFound:
                    continue
                if there.type != self._name:
                    raise InvalidSchedule(
                        f'Schedule "{task.id}" makes tasks of type {there.type}, and is not of the scheduler {self._name}.',
                        hint="Give the task another id.",
                    )
            schedules.put_all(conn, [schedule_of(task, self._name) for task in added])

    def remove(self, id: str) -> None:
        """Forget it, and cancel those of its runs that have not started."""
        with self.connect() as conn:
            try:
                schedules.remove(conn, id)
            except ScheduleNotFound:
                return  # an operator was first, or it was never started
            for row in schedules.runs(conn, id, limit=1000).rows:
                if row["status"] in ("waiting", "fresh"):
                    _cancel(conn, row["id"])

    def has(self, id: str) -> bool:
        """Is it there?"""
        with self.connect() as conn:
            try:
                schedules.get(conn, id)
            except ScheduleNotFound:
                return False
        return True


def _cancel(conn: db.Connection, id: int) -> None:
    try:
        tasks.cancel(conn, id)
    except WrongState:
        return  # it has ended
