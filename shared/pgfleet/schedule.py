"""What a schedule is: its triggers, what it runs, by which rules, and how it stands.

Nothing here speaks to the database: that is :mod:`pgfleet.schedules`, where all of these names stand, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from pgfleet import cron as crons
from pgfleet.errors import InvalidSchedule

Kind = Literal["interval", "cron", "event", "once"]
Overlap = Literal["skip", "queue", "allow"]
CatchUp = Literal["none", "once", "all"]


@dataclass(frozen=True)
class Trigger:
    """What starts a schedule; make one with :meth:`interval`, :meth:`crontab`, :meth:`on` or :meth:`once`.

    ``due_at``: when it is due next; of a new one, when it is to be due first (None: by its own clock).
    ``done_at``: when a one-time trigger fired. ``problem``: why it can't be fired.
    """

    kind: Kind
    every: timedelta | None = None
    fixed_delay: bool = False
    cron: str | None = None
    event: str | None = None
    at: datetime | None = None
    after: timedelta | None = None
    due_at: datetime | None = None
    done_at: datetime | None = None
    problem: str | None = None

    @classmethod
    def interval(cls, every: timedelta, *, fixed_delay: bool = False, first: datetime | None = None) -> Trigger:
        """Every so often, from due time to due time; with ``fixed_delay`` from the end of a run to the next one's start."""
        return cls("interval", every=every, fixed_delay=fixed_delay, due_at=first)

    @classmethod
    def crontab(cls, expression: str) -> Trigger:
        """When a cron expression says, in the schedule's time zone; see :mod:`pgfleet.cron`."""
        return cls("cron", cron=expression)

    @classmethod
    def on(cls, event: str) -> Trigger:
        """Whenever that event is emitted."""
        return cls("event", event=event)

    @classmethod
    def once(cls, *, at: datetime | None = None, after: timedelta | None = None) -> Trigger:
        """Once: at a time, or so long after the schedule was first put."""
        return cls("once", at=at, after=after)


@dataclass(frozen=True)
class Schedule:
    """What is to be run, and when. ``data`` is stored as it is when it is a text, as its JSON otherwise.

    ``enabled`` None: leave it as it is, or enabled when new. ``declared``: by code, so that it is stale once no live worker
    declares it. ``time_zone`` is what cron expressions are read in. None for a retry policy or timeout: the type's.
    """

    name: str
    type: str
    triggers: tuple[Trigger, ...] = ()
    data: Any = None
    group: str = "default"
    description: str = ""
    created_by: int = 0
    priority: int = 0
    enabled: bool | None = None
    max_retries: int | None = None
    retry_delay: timedelta | None = None
    timeout: timedelta | None = None
    node: str | None = None
    all_nodes: bool = False
    overlap: Overlap = "skip"
    catch_up: CatchUp = "once"
    catch_up_limit: int = 100
    time_zone: str = "UTC"
    declared: bool = False


@dataclass(frozen=True, kw_only=True)
class State(Schedule):
    """A schedule as it stands, and how it does. ``data`` is the text in its row, ``triggers`` in the order they were put.

    ``next_due`` is None while nothing of it is on the clock; ``running`` counts its unfinished runs, ``owed`` those that wait
    for one to end. ``last_*`` tell of its last run, ``last_task``; ``successes`` and ``failures`` count runs that ended,
    ``skipped`` due times without a run; ``last_skip_reason`` is ``overlap``, ``missed`` or ``disabled``.
    ``stale``: code declared it, and of the live workers none does.
    """

    created_at: datetime
    updated_on: datetime | None
    stale: bool
    owed: int
    next_due: datetime | None
    running: int
    last_task: int | None
    last_run_at: datetime | None
    last_ended_at: datetime | None
    last_status: str | None
    successes: int
    failures: int
    skipped: int
    last_skipped_at: datetime | None
    last_skip_reason: str | None


def check(schedule: Schedule) -> None:
    """Raise :class:`~pgfleet.errors.InvalidSchedule` for a cron expression, time zone or time that SQL can't judge."""
    crons.find_zone(schedule.time_zone)
    for trigger in schedule.triggers:
        if trigger.cron is not None:
            crons.parse(trigger.cron, schedule.time_zone)
        for moment in (trigger.at, trigger.due_at):
            if moment is not None and moment.tzinfo is None:
                raise InvalidSchedule(
                    f'Schedule "{schedule.name}" names a time without a time zone: {moment.isoformat()}.',
                    hint="Give the datetime a tzinfo.",
                )
