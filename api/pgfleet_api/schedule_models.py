"""What requests and responses about schedules, events and firing hold; see :mod:`pgfleet_api.models`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from pgfleet.tasks import MAX_BIGINT
from pgfleet_api.fields import MAX_DELAY, MAX_RETRY_DELAY, MAX_TIMEOUT, Moment, Text, Time
from pgfleet_api.models import Model, Paging

#: As the tables' own checks have it.
NAME = r"^[A-Za-z0-9_]([A-Za-z0-9_.: -]{0,98}[A-Za-z0-9_.:-])?$"

Name = Annotated[Text, Field(pattern=NAME, description="1 to 100 letters, digits, spaces and _ . : -")]
Overlap = Literal["skip", "queue", "allow"]
CatchUp = Literal["none", "once", "all"]


class IntervalTrigger(Model):
    """Every so often."""

    kind: Literal["interval"]
    every: Annotated[float, Field(ge=0.01, le=MAX_DELAY, description="Seconds.")]
    fixed_delay: Annotated[bool, Field(description="Counted from the end of a run, not from its due time.")] = False


class CronTrigger(Model):
    """When a cron expression says, in the schedule's time zone."""

    kind: Literal["cron"]
    cron: Annotated[
        Text,
        Field(
            min_length=1,
            max_length=200,
            description="Five fields, or six with seconds first, or @hourly and the like.",
            examples=["0 2 * * *"],
        ),
    ]


class EventTrigger(Model):
    """Whenever an event is emitted."""

    kind: Literal["event"]
    event: Name


class OnceTrigger(Model):
    """Once: at a time, or so long after the schedule was first put."""

    kind: Literal["once"]
    at: Moment | None = None
    after: Annotated[float | None, Field(ge=0, le=MAX_DELAY, description="Seconds; instead of at.")] = None


NewTrigger = Annotated[
    IntervalTrigger | CronTrigger | EventTrigger | OnceTrigger,
    Field(discriminator="kind", description="Any starts it."),
]


class NewSchedule(Model):
    """A schedule, as it is to be from now on. Triggers that it has already keep their clocks."""

    type: Annotated[Text, Field(min_length=1, max_length=100, description="A task type the fleet knows.")]
    triggers: Annotated[
        list[NewTrigger],
        Field(default_factory=list, max_length=100, description="Any of them starts it; none: only by hand."),
    ]
    data: Annotated[
        Any, Field(description="Each run's payload: a text is stored as it is, any other JSON value as its JSON.")
    ] = None
    group: Annotated[Text, Field(min_length=1, max_length=100)] = "default"
    description: Annotated[Text, Field(max_length=10_000)] = ""
    created_by: Annotated[
        int | None,
        Field(ge=0, le=MAX_BIGINT, description="Whose tasks the runs are; 0: nobody's. Absent: the caller's."),
    ] = None
    priority: Annotated[int, Field(ge=-(2**31), le=2**31 - 1, description="Of its runs; higher first.")] = 0
    enabled: Annotated[bool | None, Field(description="Absent: as it is; a new one is enabled.")] = None
    max_retries: Annotated[int | None, Field(ge=0, le=1000, description="Of each run; the type's, if absent.")] = None
    retry_delay: Annotated[
        float | None,
        Field(ge=0, le=MAX_RETRY_DELAY, description="Seconds before the first retry; the type's, if absent."),
    ] = None
    timeout: Annotated[
        float | None, Field(ge=0.001, le=MAX_TIMEOUT, description="Seconds an attempt may take; the type's, if absent.")
    ] = None
    node: Annotated[Text | None, Field(min_length=1, max_length=255, description="Only this server runs it.")] = None
    all_nodes: Annotated[bool, Field(description="Each run is a task for all live nodes; not with node.")] = False
    overlap: Annotated[Overlap, Field(description="What a due time does that finds a run unfinished.")] = "skip"
    catch_up: Annotated[CatchUp, Field(description="Which due times are made up for that nobody fired.")] = "once"
    catch_up_limit: Annotated[int, Field(ge=1, le=10_000, description="At most so many, where catch_up is all.")] = 100
    time_zone: Annotated[
        Text, Field(min_length=1, max_length=100, description="What cron is read in.", examples=["Europe/Stockholm"])
    ] = "UTC"


class ScheduleTrigger(Model):
    """What starts a schedule; only the fields of its kind are not null."""

    kind: Literal["interval", "cron", "event", "once"]
    every: Annotated[float | None, Field(description="Seconds.")]
    fixed_delay: bool
    cron: str | None
    event: str | None
    at: Time | None
    after: Annotated[float | None, Field(description="Seconds.")]
    due_at: Annotated[Time | None, Field(description="When it is due next; null: not on the clock.")]
    done_at: Annotated[Time | None, Field(description="When a one-time trigger fired.")]
    problem: Annotated[str | None, Field(description="Why it can't be fired.")]


class Schedule(Model):
    """A schedule as it stands, and how it does. One in memory tells what its worker told with its last heartbeat, at most."""

    name: str
    group: str
    description: str
    persistent: Annotated[bool, Field(description="False: it lives and ends with one worker process.")]
    storage: Annotated[Literal["Storage", "Memory"], Field(description="The same, in a word.")]
    worker: Annotated[str | None, Field(description="The worker that keeps it in memory.")]
    type: Annotated[str | None, Field(description="Null for one in memory: its runs are no tasks.")]
    data: Annotated[str | None, Field(description="The payload, as it is stored.")]
    triggers: list[ScheduleTrigger]
    created_by: int | None
    priority: int
    enabled: bool
    max_retries: Annotated[int | None, Field(description="Null: the type's.")]
    retry_delay: Annotated[float | None, Field(description="Seconds; null: the type's.")]
    timeout: Annotated[float | None, Field(description="Seconds; null: the type's.")]
    node: str | None
    all_nodes: bool
    overlap: Overlap
    catch_up: CatchUp
    catch_up_limit: int
    time_zone: str
    declared: Annotated[bool, Field(description="By code.")]
    stale: Annotated[bool, Field(description="Code declared it, and no live worker's code does any more.")]
    created_at: Time | None
    updated_on: Time | None
    next_due: Annotated[Time | None, Field(description="Null: nothing of it is on the clock.")]
    running: Annotated[int, Field(description="Unfinished runs.")]
    owed: Annotated[int, Field(description="Due times whose runs wait for the run before to end.")]
    last_task: Annotated[int | None, Field(description="Its latest run.")]
    last_run_at: Time | None
    last_ended_at: Time | None
    last_status: str | None
    last_error: Annotated[str | None, Field(description="Of one in memory; of the others, their last task has it.")]
    successes: int
    failures: int
    skipped: Annotated[int, Field(description="Due times that were passed by.")]
    last_skipped_at: Time | None
    last_skip_reason: Annotated[str | None, Field(description="overlap, missed or disabled.")]


class SchedulePage(Model):
    """One page of a list of schedules."""

    list: list[Schedule]
    offset: Annotated[int, Field(description="Schedules before this page.")]
    pageSize: Annotated[int, Field(description="The most a page holds: the limit.")]
    totalSize: Annotated[int, Field(description="Schedules on all pages.")]


class ListSchedules(Paging):
    """The parameters of a list of schedules; filters combine."""

    group: Annotated[Text | None, Field(description="Only this group.")] = None
    type: Annotated[Text | None, Field(description="Only those whose runs are of this type.")] = None
    enabled: Annotated[bool | None, Field(description="Only the enabled, or only the disabled.")] = None
    stale: Annotated[bool | None, Field(description="Only the stale, or only the others.")] = None
    persistent: Annotated[bool | None, Field(description="Only the stored, or only those in memory.")] = None


class Emitted(Model):
    """What an event did."""

    event: str
    tasks: Annotated[int, Field(description="How many tasks it made.")]
    held: Annotated[bool, Field(description="Firing is stopped: its tasks are made when it starts.")]


class NewFiring(Model):
    """Whether anything starts by itself."""

    stopped: bool


class Firing(Model):
    """Does anything start by itself?"""

    stopped: Annotated[bool, Field(description="It stays so, over restarts, until it is started.")]


class FiringChanged(Firing):
    """Does anything start by itself, and what the change did."""

    tasks: Annotated[int, Field(description="Made now, by the events that were held.")]
