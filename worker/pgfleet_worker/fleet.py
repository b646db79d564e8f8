"""Schedules beside the code they run: a fluent builder, and a mark for functions.

    fleet = Fleet()
    fleet.schedule("data-sync").every(hours=1).run(sync_data).retry(3, delay=60).register()

    @schedule("nightly", cron="0 2 * * *", tz="Europe/Stockholm")
    @handler("thumbnails")
    def thumbnails(task: Task) -> int: ...

A module named with ``--handlers`` is searched for both. Each worker that loads it makes the schedules so in Postgres when it
starts; what an operator has disabled stays disabled. Mistakes are raised where they are made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NoReturn, Self, TypeVar

from pgfleet.schedules import CatchUp, Overlap, Schedule, Trigger
from pgfleet_worker.declaration import Declaration as Declaration
from pgfleet_worker.declaration import check, refuse
from pgfleet_worker.handler import SCHEDULES

F = TypeVar("F", bound=Callable[..., Any])


class Fleet:
    """The schedules of a module, in a global name of it. There may be several."""

    def __init__(self) -> None:
        self._begun: dict[str, Builder] = {}

    def schedule(self, name: str) -> Builder:
        """Begin a schedule; :meth:`Builder.register` ends it. Raises InvalidSchedule for a second one of that name."""
        if name in self._begun:
            refuse(
                name, "stands twice in this fleet", "Give each schedule a name of its own; one may have many triggers."
            )
        self._begun[name] = Builder(name)
        return self._begun[name]

    @property
    def __pgfleet_schedules__(self) -> tuple[Declaration, ...]:
        """What was registered. Raises InvalidSchedule for what was begun and not ended."""
        for name, builder in self._begun.items():
            if builder.registered is None:
                refuse(name, "was begun but not registered", "End it with .register().")
        return tuple(builder.registered for builder in self._begun.values() if builder.registered is not None)


class Builder:
    """Says what a schedule is, word by word, in any order; :meth:`register` checks it and ends."""

    def __init__(self, name: str) -> None:
        self._schedule = Schedule(name, "", declared=True)
        self._function: Callable[..., Any] | None = None
        self._in_memory = False
        self._zone: str | None = None
        self._said: dict[str, str] = {}  # by keyword: the words that make no sense in memory
        #: What :meth:`register` made.
        self.registered: Declaration | None = None

    # -- when

    def every(self, interval: timedelta | None = None, *, fixed_delay: bool = False, **units: float) -> Self:
        """``every(hours=1)``, units as of ``timedelta``: from due time to due time; with ``fixed_delay`` from the end of a
        run to the next one's start. The first time is one interval after it is first registered."""
        return self._on(Trigger.interval(self._length("every", interval, units), fixed_delay=fixed_delay))

    def cron(self, expression: str, tz: str | None = None) -> Self:
        """When a cron expression says: 5 fields, 6 with seconds first, or ``@hourly`` and the like; in the time zone ``tz``
        (``Europe/Stockholm``; default UTC)."""
        if tz is not None:
            if self._zone not in (None, tz):
                self._refuse(f"has two time zones, {self._zone} and {tz}", "Make two schedules.")
            self._zone = tz
            self._change(time_zone=tz)
        return self._on(Trigger.crontab(expression))

    def on_event(self, name: str) -> Self:
        """Whenever that event is emitted; the task's data then has it under ``event``."""
        self._said["on_event"] = "an event makes a task"
        return self._on(Trigger.on(name))

    def after(self, delay: timedelta | None = None, **units: float) -> Self:
        """Once, ``after(seconds=60)`` from when it is first registered."""
        return self._on(Trigger.once(after=self._length("after", delay, units)))

    def at(self, moment: datetime) -> Self:
        """Once, at that time; the datetime needs a time zone."""
        return self._on(Trigger.once(at=moment))

    # -- what

    def run(self, function: Callable[..., Any], data: Any = None) -> Self:
        """What is run: a marked handler, whose type its tasks then have, or any function, which takes the
        :class:`~pgfleet_worker.Task` or nothing, ``async`` or not. ``data`` is the tasks' data."""
        if not callable(function):
            self._refuse(f"can't run {function!r}", "Give .run() a function.")
        if self._function is not None:
            self._refuse("is told to run two functions", "Make two schedules.")
        self._function = function
        return self._change(data=data)

    def retry(self, times: int, delay: float | timedelta | None = None) -> Self:
        """Try a failed run again so often; ``delay`` in seconds before the first time, doubled at each further one."""
        given = delay if delay is None or isinstance(delay, timedelta) else timedelta(seconds=delay)
        return self._change(max_retries=times, retry_delay=given)

    def timeout(self, seconds: float) -> Self:
        """Call a run off that takes longer; it has failed."""
        self._said["timeout"] = "nothing stops a thread"
        return self._change(timeout=timedelta(seconds=seconds))

    def priority(self, priority: int) -> Self:
        """Higher goes first where slots are short."""
        return self._change(priority=priority)

    # -- how

    def in_memory(self) -> Self:
        """Run it inside each worker that loads this, and store nothing: to refresh a local cache, for instance."""
        self._in_memory = True
        return self

    def on_all_nodes(self) -> Self:
        """Each time on every node that has a live worker for it."""
        self._said["on_all_nodes"] = "it runs in each worker that has it"
        return self._change(all_nodes=True)

    def on_node(self, node: str) -> Self:
        """Only on that node."""
        self._said["on_node"] = "it runs in each worker that has it"
        return self._change(node=node)

    def overlap(self, rule: Overlap) -> Self:
        """When a due time comes and a run is unfinished: ``skip`` it (the default), ``queue`` one, ``allow`` it."""
        if rule != "skip":
            self._said["overlap"] = "it always skips"
        return self._change(overlap=rule)

    def catch_up(self, rule: CatchUp, limit: int = 100) -> Self:
        """Due times that passed while nobody fired: run ``once`` (the default), ``none``, or ``all``, the last ``limit``."""
        if rule != "once":
            self._said["catch_up"] = "it is gone with its process"
        return self._change(catch_up=rule, catch_up_limit=limit)

    def group(self, name: str) -> Self:
        """The group it is listed in."""
        return self._change(group=name)

    def describe(self, text: str) -> Self:
        """What it is for."""
        return self._change(description=text)

    def register(self) -> Declaration:
        """Check it, and have every worker that loads this module register it. Raises InvalidSchedule."""
        if self.registered is not None:
            self._refuse("is registered twice", "Call .register() once, at the end.")
        if self._function is None:
            self._refuse("has nothing to run", "Give it a function: .run(function).")
        made = Declaration(self._schedule, self._function, self._in_memory)
        check(made, self._said if self._in_memory else {})
        self.registered = made
        return made

    # -- the builder's own

    def _on(self, trigger: Trigger) -> Self:
        return self._change(triggers=(*self._schedule.triggers, trigger))

    def _change(self, **fields: Any) -> Self:
        self._schedule = replace(self._schedule, **fields)
        return self

    def _length(self, word: str, given: timedelta | None, units: dict[str, float]) -> timedelta:
        try:
            length = (given or timedelta()) + timedelta(**units)
        except (TypeError, OverflowError):
            length = timedelta(-1)
        if length < timedelta() or (given is None and not units):
            self._refuse(f"has .{word}() with no length of time", f"Write .{word}(hours=1), or give it a timedelta.")
        return length

    def _refuse(self, what: str, hint: str) -> NoReturn:
        refuse(self._schedule.name, what, hint)


def schedule(
    name: str,
    *,
    every: float | timedelta | None = None,
    fixed_delay: bool = False,
    cron: str | None = None,
    tz: str | None = None,
    on_event: str | None = None,
    after: float | timedelta | None = None,
    at: datetime | None = None,
    data: Any = None,
    in_memory: bool = False,
    on_all_nodes: bool = False,
    on_node: str | None = None,
    retry: int | None = None,
    retry_delay: float | None = None,
    timeout: float | None = None,
    priority: int = 0,
    overlap: Overlap = "skip",
    catch_up: CatchUp = "once",
    catch_up_limit: int = 100,
    group: str = "default",
    description: str = "",
) -> Callable[[F], F]:
    """Mark a function as what a schedule runs, beside ``@handler`` where it has one; times in seconds.

    The options are the words of :class:`Builder`; with several triggers any of them starts it. A function may have several
    marks. Raises InvalidSchedule.
    """

    def length(given: float | timedelta) -> timedelta:
        return given if isinstance(given, timedelta) else timedelta(seconds=given)

    def mark(function: F) -> F:
        its = Builder(name).run(function, data).priority(priority).overlap(overlap).catch_up(catch_up, catch_up_limit)
        its = its.group(group).describe(description)
        if every is not None:
            its.every(length(every), fixed_delay=fixed_delay)
        if cron is not None:
            its.cron(cron, tz)
        if on_event is not None:
            its.on_event(on_event)
        if after is not None:
            its.after(length(after))
        if at is not None:
            its.at(at)
        if in_memory:
            its.in_memory()
        if on_all_nodes:
            its.on_all_nodes()
        if on_node is not None:
            its.on_node(on_node)
        if retry is not None:
            its.retry(retry, retry_delay)
        if timeout is not None:
            its.timeout(timeout)
        setattr(function, SCHEDULES, (*getattr(function, SCHEDULES, ()), its.register()))
        return function

    return mark
