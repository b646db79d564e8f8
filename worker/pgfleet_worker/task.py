"""What a handler sees of its task."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from pgfleet.db import Connection

_UNREAD: Any = object()


class Surroundings(Protocol):
    """What a task's process lends it."""

    @property
    def export_dir(self) -> Path: ...

    def connect(self) -> AbstractContextManager[Connection]: ...


class Task:
    """One attempt at one task: made by the worker for its handler, good for the length of the call."""

    __slots__ = ("_data", "_process", "_text", "attempt", "cancelled", "created_by", "id", "type")

    def __init__(
        self, id: int, type: str, text: str | None, created_by: int, attempt: int, process: Surroundings
    ) -> None:
        self.id = id
        self.type = type
        self._text = text
        self._data = _UNREAD
        self.created_by = created_by
        self.attempt = attempt
        self._process = process
        #: True once this attempt's work is no longer wanted: the worker stops, or has lost its lease.
        self.cancelled = False

    @property
    def text(self) -> str | None:
        """The task's data, as it stands in the row."""
        return self._text

    @property
    def data(self) -> Any:
        """The task's data, parsed; None where there is none. Raises ``ValueError`` where it is no JSON."""
        if self._data is _UNREAD:
            self._data = None if self._text is None else json.loads(self._text)
        return self._data

    def connect(self) -> AbstractContextManager[Connection]:
        """A database connection of the handler's own, with pgfleet's search_path; closed at the end of the block."""
        return self._process.connect()

    @property
    def export_dir(self) -> Path:
        """The volume that API and workers share."""
        return self._process.export_dir

    def __repr__(self) -> str:
        return f"<Task {self.id} {self.type} attempt {self.attempt}>"
