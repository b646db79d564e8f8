"""A schedule that stands in code, with its function; and what it can't be."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property, wraps
from typing import Any, NoReturn

from pgfleet import schedules
from pgfleet.errors import InvalidSchedule
from pgfleet.schedule import Schedule
from pgfleet_worker.handler import TYPE, Handler, is_whole, mark_of
from pgfleet_worker.task import to_json

#: What ``schedules`` takes for a name.
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.: -]{0,98}[A-Za-z0-9_.:-])?")


@dataclass(frozen=True)
class Declaration:
    """A schedule that stands in code: for the database, or ``in_memory``, for this process alone."""

    schedule: Schedule
    function: Callable[..., Any]
    in_memory: bool = False

    @cached_property
    def handler(self) -> Handler:
        """Its function as a handler: as it is marked, else of a type called as the schedule."""
        marked = mark_of(self.function)
        if marked is not None:
            return marked
        name = self.schedule.name
        return Handler(name, taking_a_task(name, self.function), self.schedule.description)

    @property
    def stored(self) -> Schedule:
        """What is put into the database."""
        return replace(self.schedule, type=self.handler.type)


def check(its: Declaration, said: dict[str, str]) -> None:
    """Raise InvalidSchedule for what can't be; ``said``: the words that make no sense of this one, and why."""
    schedule = its.schedule

    def refuse_it(what: str, hint: str) -> NoReturn:
        refuse(schedule.name, what, hint)

    if not _NAME.fullmatch(schedule.name):
        refuse_it("has a name that can't be", "Use 1 to 100 letters, digits, spaces and _ . : -")
    if not schedule.triggers:
        refuse_it("has no trigger", "Say when: .every(), .cron(), .on_event(), .after() or .at().")
    if said:
        word, why = next(iter(said.items()))
        refuse_it(f"is in_memory and has {word}: {why}", f"Leave out one of .in_memory() and .{word}().")
    marked = mark_of(its.function)
    if not (its.in_memory or marked is not None or TYPE.fullmatch(schedule.name)):
        refuse_it(
            "can't give its name to a task type",
            "A type is lower-case letters, digits and _ . -; or mark the function with @handler(type).",
        )
    if its.in_memory and marked is not None and marked.isolation == "process":
        refuse_it("is in_memory, and its handler has isolation", 'Leave out .in_memory() or isolation="process".')
    if schedule.all_nodes and schedule.node is not None:
        refuse_it("is on_all_nodes and on_node", "Leave one of them out.")
    _check_rules(schedule, refuse_it)
    try:
        schedules.check(schedule)
    except InvalidSchedule as error:
        raise InvalidSchedule(f'Schedule "{schedule.name}" can\'t be: {error.message}', hint=error.hint) from None
    taking_a_task(schedule.name, its.function)


def _check_rules(schedule: Schedule, refuse_it: Callable[[str, str], NoReturn]) -> None:
    if schedule.overlap not in ("skip", "queue", "allow"):
        refuse_it(f"has overlap {schedule.overlap!r}", "It is skip, queue or allow.")
    if schedule.catch_up not in ("none", "once", "all") or not 1 <= schedule.catch_up_limit <= 10_000:
        refuse_it(
            f"has catch_up {schedule.catch_up!r}, limit {schedule.catch_up_limit}", "none, once or all; 1 to 10000."
        )
    _check_kinds(schedule, refuse_it)
    if schedule.max_retries is not None and not 0 <= schedule.max_retries <= 1000:
        refuse_it(f"has {schedule.max_retries} retries", "Between 0 and 1000 can be.")
    if (schedule.retry_delay or timedelta()) < timedelta() or (schedule.timeout or timedelta(1)) <= timedelta():
        refuse_it("has a retry delay or timeout below 0", "Give seconds.")
    for trigger in schedule.triggers:
        if trigger.every is not None and not timedelta(milliseconds=10) <= trigger.every <= timedelta(days=3650):
            refuse_it(f"comes every {trigger.every}", "Between 10 milliseconds and 3650 days can be.")
        if trigger.event is not None and not _NAME.fullmatch(trigger.event):
            refuse_it(f"names an event {trigger.event!r}", "Use 1 to 100 letters, digits, spaces and _ . : -")


def _check_kinds(schedule: Schedule, refuse_it: Callable[[str, str], NoReturn]) -> None:
    for word, whole in (("a priority of", schedule.priority), ("retries:", schedule.max_retries)):
        if whole is not None and not is_whole(whole):
            refuse_it(f"has {word} {whole!r}", "Give a whole number.")
    for word, text in (("group", schedule.group), ("node", schedule.node), ("description", schedule.description)):
        if text is not None and not isinstance(text, str):
            refuse_it(f"has the {word} {text!r}", "Give a text.")
    try:
        to_json(schedule.data)
    except (TypeError, ValueError, RecursionError) as error:
        refuse_it(f"has data that JSON can't say: {error}", "Give a text, or what JSON can say.")


def taking_a_task(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` as the worker calls it: with the task, which one without parameters does without."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return function  # C code that doesn't say
    wanted = [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if len(wanted) > 1 or any(p.kind is p.KEYWORD_ONLY for p in wanted):
        refuse(name, f"can't call {function!r}", "Let it take one Task, or nothing.")
    if wanted:
        return function
    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def bare_async(task: Any) -> Any:
            return await function()

        return bare_async

    @wraps(function)
    def bare(task: Any) -> Any:
        return function()

    return bare


def refuse(name: str, what: str, hint: str) -> NoReturn:
    """Raise InvalidSchedule, with the schedule's name."""
    raise InvalidSchedule(f'Schedule "{name}" {what}.', hint=hint)
