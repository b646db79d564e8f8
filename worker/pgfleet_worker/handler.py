"""Handlers: functions marked for a task type, found by loading the modules that hold them. There is no registry.

    @handler("resize", description="Make thumbnails.", max_retries=3, retry_delay=30)
    def resize(task: Task) -> dict: ...

A plain function runs in a thread, an ``async def`` one on the worker's event loop.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import entry_points
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from pgfleet.errors import PgfleetError, SettingsError

if TYPE_CHECKING:
    from pgfleet_worker.task import Task

MARK = "__pgfleet_handler__"
GROUP = "pgfleet.handlers"

F = TypeVar("F", bound="Callable[[Task], Any]")


class GiveUp(PgfleetError):
    """Raised by a handler whose task no retry can help: it fails at once, with this message for its reader."""


class RetryLater(PgfleetError):
    """Raised by a handler that failed but knows when to try again: ``seconds`` from now, while retries are left."""

    def __init__(self, message: str, *, seconds: float) -> None:
        super().__init__(message)
        try:
            self.seconds = min(max(float(seconds), 0.0), 365 * 86_400.0)
        except (TypeError, ValueError):
            raise TypeError(f"RetryLater needs its seconds as a number, not {seconds!r}") from None


@dataclass(frozen=True)
class Handler:
    """A function and what its type is to the fleet. An operator may change the type's row; the row then wins."""

    type: str
    function: Callable[[Task], Any]
    description: str = ""
    for_readers: bool = False
    max_retries: int = 0
    retry_delay: timedelta = timedelta(seconds=10)

    @property
    def is_async(self) -> bool:
        """Does it run on the event loop rather than in a thread?"""
        return inspect.iscoroutinefunction(self.function)


def handler(
    type: str,
    *,
    description: str = "",
    for_readers: bool = False,
    max_retries: int = 0,
    retry_delay: float = 10,
) -> Callable[[F], F]:
    """Mark a function as the handler of ``type``.

    It is called with one :class:`~pgfleet_worker.Task`; what it returns (anything JSON can say, or an
    :class:`~pgfleet_worker.Export`) is the task's result, what it raises fails the task. ``for_readers`` lets end users
    create the type; ``retry_delay`` is the first retry's delay in seconds, doubled at each further failure.
    """

    def mark(function: F) -> F:
        delay = timedelta(seconds=retry_delay)
        setattr(function, MARK, Handler(type, function, description, for_readers, max_retries, delay))
        return function

    return mark


def load(modules: Iterable[str], types: Iterable[str] = ()) -> dict[str, Handler]:
    """The handlers of pgfleet itself, of installed entry points and of ``modules``, by type; later ones win.

    With ``types`` only those. Raises :class:`SettingsError` for a module that can't be loaded or holds no handler, and
    for a type that nothing loaded serves.
    """
    found: dict[str, Handler] = {}
    for name in ["pgfleet_worker.handlers.csv_export", *(e.value for e in entry_points(group=GROUP)), *modules]:
        handlers = _marked(_import(name))
        if not handlers:
            raise SettingsError(
                f"Module {name} holds no handler.", hint='Mark a function with @pgfleet_worker.handler("its-type").'
            )
        found.update(handlers)
    wanted = list(types) or sorted(found)
    missing = [name for name in wanted if name not in found]
    if missing:
        raise SettingsError(
            f"No handler loaded serves {', '.join(missing)}.",
            detail=f"Loaded: {', '.join(sorted(found))}.",
            hint="Correct --types, or name the module that has it with --handlers.",
        )
    return {name: found[name] for name in wanted}


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SettingsError(
            f"Handler module {name} can't be imported: {error}.", hint="Is it installed, or on PYTHONPATH?"
        ) from error


def _marked(module: ModuleType) -> dict[str, Handler]:
    marks = (getattr(value, MARK, None) for value in vars(module).values())
    return {mark.type: mark for mark in marks if isinstance(mark, Handler)}
