"""What any process that runs tasks lends them, whatever they are to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pgfleet import db
from pgfleet.settings import Settings


class Loans:
    """The volume, and connections. The rest of :class:`~pgfleet_worker.task.Surroundings` is each process's own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def export_dir(self) -> Path:
        """The volume that API and workers share."""
        return self._settings.export_dir

    @contextmanager
    def connect(self) -> Iterator[db.Connection]:
        """A connection for one handler, in a transaction; closed at the end of the block."""
        with db.connect(self._settings, "pgfleet handler", autocommit=False) as conn:
            yield conn
