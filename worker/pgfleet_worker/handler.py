"""Handlers: functions marked for a task type, found by loading the modules that hold them. There is no registry.

    @handler("resize", description="Make thumbnails.", max_retries=3, retry_delay=30)
    def resize(task: Task) -> dict: ...

A plain function runs in a thread, or with ``isolation="process"`` in a process of its own; an ``async def`` one on the
worker's event loop.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from importlib.metadata import entry_points
from math import isnan, nan
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pgfleet.errors import InvalidSchedule, PgfleetError, SettingsError
from pgfleet.housekeeping import RESERVED

if TYPE_CHECKING:
    from pgfleet_worker.declaration import Declaration
    from pgfleet_worker.task import Task

MARK = "__pgfleet_handler__"
#: Of a function or a Fleet: the schedules declared with it.
SCHEDULES = "__pgfleet_schedules__"
GROUP = "pgfleet.handlers"
OWN = "pgfleet_worker.handlers.csv_export"

#: What ``task_types`` takes for a name, and seconds of the longest delay or timeout.
TYPE = re.compile(r"[a-z][a-z0-9_.-]{0,99}")
YEAR = 365 * 86_400.0

F = TypeVar("F", bound="Callable[[Task], Any]")


class GiveUp(PgfleetError):
    """Raised by a handler whose task no retry can help: it fails at once, with this message for its reader."""

    def __init__(
        self, message: str = "The task can't be done.", *, detail: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, detail=detail, hint=hint)


class RetryLater(PgfleetError):
    """Raised by a handler that failed but knows when to try again: ``seconds`` from now, while retries are left."""

    seconds = 10.0

    def __init__(self, message: str, *, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds_within("RetryLater", seconds)


class Release(PgfleetError):
    """Raised by a handler for "not now": the task goes back to the fleet, to come again in ``seconds``; that is no failure."""

    seconds = 1.0

    def __init__(self, message: str = "", *, seconds: float = 1.0) -> None:
        super().__init__(message)
        self.seconds = seconds_within("Release", seconds)


class Cancelled(BaseException):
    """The work is no longer wanted: end now. Raised by ``task.progress()`` and ``task.checkpoint()``, and in the midst of a
    handler that runs in a process of its own.

    No :class:`Exception`, so that a handler's ``except Exception`` does not swallow it, as with ``asyncio.CancelledError``.
    """

    def __init__(self, why: str | None = None) -> None:
        super().__init__(why or "cancelled")


def seconds_within(name: str, given: float) -> float:
    """``given`` seconds, between none and a year. Raises ``TypeError`` for what is no number."""
    try:
        seconds = float(given)
    except (TypeError, ValueError):
        seconds = nan
    if isnan(seconds):
        raise TypeError(f"{name} needs its seconds as a number, not {given!r}")
    return min(max(seconds, 0.0), YEAR)


Isolation = Literal["thread", "process"]


@dataclass(frozen=True)
class Handler:
    """A function and what its type is to the fleet. An operator may change the type's row; the row then wins."""

    type: str
    function: Callable[[Task], Any]
    description: str = ""
    for_readers: bool = False
    max_retries: int = 0
    retry_delay: timedelta = timedelta(seconds=10)
    timeout: timedelta | None = None
    max_running: int | None = None
    isolation: Isolation = "thread"
    tasks_per_process: int = 100

    @property
    def is_async(self) -> bool:
        """Does it run on the event loop rather than in a thread? What only answers a coroutine runs it in its thread."""
        return inspect.iscoroutinefunction(self.function)


def handler(
    type: str,
    *,
    description: str = "",
    for_readers: bool = False,
    max_retries: int = 0,
    retry_delay: float = 10,
    timeout: float | None = None,
    max_running: int | None = None,
    isolation: Isolation = "thread",
    tasks_per_process: int = 100,
) -> Callable[[F], F]:
    """Mark a function as the handler of ``type``.

    It is called with one :class:`~pgfleet_worker.Task`; what it returns (anything JSON can say, or an
    :class:`~pgfleet_worker.Export`) is the task's result, what it raises fails the task. ``for_readers`` lets end users
    create the type; ``retry_delay`` is the first retry's delay in seconds, doubled at each further failure.

    ``timeout``: seconds after which a task is called off and counts as failed. ``max_running``: the most tasks of the type at
    once, over the whole fleet. ``isolation="process"``: in a process of its own, one a slot, which is made anew after
    ``tasks_per_process`` tasks; what kills it fails that task alone. Raises ``ValueError`` for what can't be.
    """
    whole = "a whole number,"
    named = isinstance(type, str) and TYPE.fullmatch(type)
    _require("type", type, named, "a name of lower-case letters, digits and _ . -, 100 at most")
    _require("description", description, isinstance(description, str), "a text")
    _require("max_retries", max_retries, is_whole(max_retries, 0, 1000), f"{whole} 0 to 1000")
    _require("retry_delay", retry_delay, _is_number(retry_delay, 0, YEAR), "seconds, at most a year")
    _require("isolation", isolation, isolation in ("thread", "process"), '"thread" or "process"')
    _require(
        "timeout",
        timeout,
        timeout is None or _is_number(timeout, 0.001, YEAR),
        "seconds, from 0.001 to a year, or None",
    )
    _require("max_running", max_running, max_running is None or is_whole(max_running, 1), f"{whole} 1 or more, or None")
    _require("tasks_per_process", tasks_per_process, is_whole(tasks_per_process, 1), f"{whole} 1 or more")

    def mark(function: F) -> F:
        if isolation == "process" and inspect.iscoroutinefunction(function):
            raise ValueError(f'{function.__qualname__} is "async def": only a plain function takes isolation="process"')
        before = inspect.getattr_static(function, MARK, None)
        if isinstance(before, Handler) and before.function is function:
            raise ValueError(f"{function!r} is the handler of {before.type} already: give {type} a function of its own")
        made = Handler(
            type,
            function,
            description,
            for_readers,
            max_retries,
            timedelta(seconds=retry_delay),
            None if timeout is None else timedelta(seconds=timeout),
            max_running,
            isolation,
            tasks_per_process,
        )
        try:
            setattr(function, MARK, made)
        except AttributeError:
            raise ValueError(f"{function!r} can't be marked: mark a function at the top of a module") from None
        return function

    return mark


def _require(name: str, value: object, right: object, expected: str) -> None:
    if not right:
        raise ValueError(f"{name}={value!r}: expected {expected}")


def is_whole(value: object, least: int = -(2**31), most: int = 2**31 - 1) -> bool:
    """Is it an integer of Postgres's, from ``least`` to ``most``?"""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_number(value: object, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


@cache
def installed() -> tuple[str, ...]:
    """The modules that installed packages offer. Looked for once: that reads what every package says of itself."""
    return tuple(point.value for point in entry_points(group=GROUP))


def load(modules: Iterable[str], types: Iterable[str] = ()) -> dict[str, Handler]:
    """The handlers of pgfleet itself, of installed entry points and of ``modules``, by type; later ones win.

    With ``types`` only those. Raises :class:`SettingsError` for a module that can't be loaded or holds no handler, and
    for a type that nothing loaded serves.
    """
    found: dict[str, Handler] = {}
    for name in [OWN, *installed(), *modules]:
        module = _import(name)
        handlers = marked(module)
        if not handlers and not declared(module):
            raise SettingsError(
                f"Module {name} holds no handler.", hint='Mark a function with @pgfleet_worker.handler("its-type").'
            )
        if ours := [type for type in handlers if type.startswith(RESERVED)]:
            raise SettingsError(
                f"Module {name} holds a handler of {ours[0]}, and such names are the fleet's own.",
                hint=f'Give the type a name that doesn\'t begin with "{RESERVED}".',
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
    for name in wanted:
        _require_importable(found[name])
    return {name: found[name] for name in wanted}


def load_schedules(modules: Iterable[str]) -> list[Declaration]:
    """What the same modules declare, by name. Raises :class:`~pgfleet.errors.InvalidSchedule` where two have one name."""
    found: dict[str, Declaration] = {}
    for name in [OWN, *installed(), *modules]:
        for one in declared(_import(name)):
            if one.schedule.name.startswith(RESERVED):
                raise InvalidSchedule(
                    f'Schedule "{one.schedule.name}" has a name as only the fleet\'s own have.',
                    hint=f'Give it one that doesn\'t begin with "{RESERVED}".',
                )
            if found.setdefault(one.schedule.name, one) is not one:
                raise InvalidSchedule(
                    f'Schedule "{one.schedule.name}" is declared twice.', hint="Give each schedule a name of its own."
                )
    return [found[name] for name in sorted(found)]


def _require_importable(handler: Handler) -> None:
    """A process of its own finds the handler by the name of its module."""
    if handler.isolation != "process":
        return
    name = handler.function.__module__
    if name == "__main__" or marked(_import(name)).get(handler.type) != handler:
        raise SettingsError(
            f"The handler of {handler.type} can't be isolated in a process: it is no global name of module {name}.",
            hint="Define it at the top of a module that can be imported, not in a script and not within a function.",
        )


def _import(name: str) -> ModuleType:
    if "/" in name or name.endswith(".py"):
        module = name.rpartition("/")[2].removesuffix(".py")
        raise SettingsError(f"{name} is a file.", hint=f"Name the module, {module}, from the file's folder.")
    try:
        return importlib.import_module(name)
    except SystemExit as error:
        raise SettingsError(f"Handler module {name} ends the process when it is imported.") from error
    except ImportError as error:
        raise SettingsError(
            f"Handler module {name} can't be imported: {error}.", hint="Is it installed, or on PYTHONPATH?"
        ) from error


def mark_of(value: object) -> Handler | None:
    """The mark of a function: its own, or that of the function which it wraps, and stands for (``functools.wraps``)."""
    mark = inspect.getattr_static(value, MARK, None)  # a proxy (Flask has some) would ask what it stands for
    if not isinstance(mark, Handler):
        return None
    return mark if mark.function is value or not callable(value) else replace(mark, function=value)


def marked(module: ModuleType) -> dict[str, Handler]:
    """The handlers that ``module`` holds, and those that its schedules run, by type.

    Raises :class:`SettingsError` where two functions of its own are marked for one type.
    """
    found: dict[str, Handler] = {}
    for value in vars(module).values():
        mark = mark_of(value)
        if mark is None:
            continue
        other = found.get(mark.type)
        if other is not None and _of(module, other) and _of(module, mark) and not _wraps(mark, other):
            raise SettingsError(
                f"Module {module.__name__} marks two functions for {mark.type}: {other.function!r} and {mark.function!r}.",
                hint="Give each task type one handler.",
            )
        found[mark.type] = mark
    for one in declared(module):
        if not one.in_memory and found.setdefault(one.handler.type, one.handler) != one.handler:
            raise InvalidSchedule(
                f'Schedule "{one.schedule.name}" and another function of {module.__name__} both serve the type '
                f"{one.handler.type}.",
                hint="Give .run() the function that is marked for it, or the schedule another name.",
            )
    return found


def _of(module: ModuleType, handler: Handler) -> bool:
    return getattr(handler.function, "__module__", None) == module.__name__


def _wraps(outer: Handler, inner: Handler) -> bool:
    return inspect.unwrap(outer.function) is inspect.unwrap(inner.function)


def declared(module: ModuleType) -> list[Declaration]:
    """The schedules that ``module`` declares."""
    found: list[Declaration] = []
    for value in vars(module).values():
        # First without asking the value, which may be a proxy.
        its = None if inspect.getattr_static(value, SCHEDULES, None) is None else getattr(value, SCHEDULES)
        if isinstance(its, tuple):
            found += (one for one in its if one not in found)
    return found
