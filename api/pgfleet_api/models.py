"""What requests and responses hold. The OpenAPI document is made from these, so each field says what it means here.

Requests are validated strictly (``"5"`` is no number) and refuse unknown fields. Response models hold values as JSON
has them, times already written out: they describe and order the fields, and are dumped as they are.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pgfleet.tasks import MAX_BIGINT, SORTABLE, STATUSES
from pgfleet_api.fields import MAX_DELAY, MAX_RETRY_DELAY, MAX_TIMEOUT, Moment, Names, Status, Text, Time, names


class Model(BaseModel):
    """What all have in common."""

    model_config = ConfigDict(strict=True, extra="forbid", ser_json_inf_nan="constants")


class NewTask(Model):
    """A task to create."""

    type: Annotated[Text, Field(min_length=1, max_length=100, description="A task type the fleet knows.")]
    data: Annotated[
        Any, Field(description="The payload: a text is stored as it is, any other JSON value as its JSON.")
    ] = None
    priority: Annotated[
        int, Field(ge=-(2**31), le=2**31 - 1, description="Higher first; then the order of creation.")
    ] = 0
    run_at: Annotated[Moment | None, Field(description="Not before this time (ISO 8601 with offset).")] = None
    delay: Annotated[
        float | None, Field(ge=0, le=MAX_DELAY, description="Not before so many seconds from now; instead of run_at.")
    ] = None
    max_retries: Annotated[
        int | None, Field(ge=0, le=1000, description="Automatic retries after a failure; the type's, if absent.")
    ] = None
    retry_delay: Annotated[
        float | None,
        Field(
            ge=0,
            le=MAX_RETRY_DELAY,
            description="Seconds before the first retry, doubled each time; the type's, if absent.",
        ),
    ] = None
    unique_key: Annotated[
        Text | None,
        Field(min_length=1, max_length=200, description="At most one unfinished task of this type has this key."),
    ] = None
    timeout: Annotated[
        float | None,
        Field(
            ge=0.001,
            le=MAX_TIMEOUT,
            description="Seconds an attempt may take, then it has failed; the type's, if absent.",
        ),
    ] = None
    node: Annotated[
        Text | None, Field(min_length=1, max_length=255, description="Only this server's workers take it. Admins only.")
    ] = None
    all_nodes: Annotated[
        bool,
        Field(
            description="One task for each live node that can do it, and a parent that sums them up, whose id is answered. "
            "Not with node, run_at, delay or unique_key. Admins only."
        ),
    ] = False


class TaskCreated(Model):
    """The task's id, to poll it with."""

    message: Annotated[str, Field(examples=["Task created."])]
    task_id: int


class CancelRequested(Model):
    """The id of a task that runs and is told to stop, to poll it with."""

    message: Annotated[str, Field(examples=["Cancellation requested."])]
    task_id: int


class Task(Model):
    """A task's row. Times are ISO 8601 with offset (UTC); durations are seconds."""

    id: int
    type: str
    data: Annotated[str | None, Field(description="The payload, as it is stored.")]
    status: Status
    worker: Annotated[str | None, Field(description="nickname:UUID of the worker that holds it or held it last.")]
    created_at: Time
    updated_on: Time | None
    created_by: Annotated[int, Field(description="The user it was created by.")]
    priority: int
    run_at: Annotated[Time | None, Field(description="When a waiting task is due.")]
    attempt: Annotated[int, Field(description="How often it was started.")]
    failure_count: int
    crash_count: Annotated[int, Field(description="How often its worker was lost.")]
    started_at: Time | None
    max_retries: Annotated[int, Field(description="In force: its own, else its type's.")]
    retry_delay: Annotated[float, Field(description="Seconds before the first retry; its own, else its type's.")]
    timeout: Annotated[float | None, Field(description="Seconds an attempt may take; its own, else its type's.")]
    node: Annotated[str | None, Field(description="The server whose workers alone take it.")]
    parent: Annotated[int | None, Field(description="The task made for all nodes of which this is one node's part.")]
    unique_key: str | None
    cancel_requested: Annotated[bool, Field(description="It is to be cancelled: its work was told to stop.")]
    current_step: Annotated[str | None, Field(description="What the work is at, in its own words.")]
    progress: Annotated[float | None, Field(description="From 0 to 1, as the work last reported.")]
    seconds_left: Annotated[float | None, Field(description="An estimate by its pace so far; only while started.")]
    cpu_seconds: Annotated[float | None, Field(description="Spent by its last attempt, where that was measured.")]
    peak_memory: Annotated[int | None, Field(description="Bytes, of its last attempt, where that was measured.")]
    result: Annotated[Any, Field(description="What the work returned: JSON parsed, any other text as it is.")]
    error: Annotated[str | None, Field(description="Why it failed, for its owner.")]


class TaskForAdmin(Task):
    """A task's row, with what only operators see."""

    error_detail: Annotated[str | None, Field(description="The traceback.")]
    checkpoint: Annotated[Any, Field(description="What the next attempt goes on from.")]


class Execution(Model):
    """One attempt at a task."""

    attempt: int
    worker: Annotated[str | None, Field(description="nickname:UUID of the worker it ran on.")]
    status: Annotated[
        Literal["started", "success", "failure", "released", "lost", "crashed", "cancelled"],
        Field(description="released: given back without blame. lost: its worker was."),
    ]
    started_at: Time | None
    ended_at: Annotated[Time | None, Field(description="None while it runs.")]
    error: Annotated[str | None, Field(description="Why it failed, for the task's owner.")]
    cpu_seconds: Annotated[float | None, Field(description="Where it was measured.")]
    peak_memory: Annotated[int | None, Field(description="Bytes, where it was measured.")]


class ExecutionForAdmin(Execution):
    """One attempt at a task, with what only operators see."""

    node: Annotated[str | None, Field(description="The server it ran on; null once its worker's record is gone.")]
    error_detail: Annotated[str | None, Field(description="The traceback.")]


class ExecutionPage(Model):
    """One page of a task's attempts, the latest first."""

    list: list[Execution | ExecutionForAdmin]
    offset: Annotated[int, Field(description="Attempts before this page.")]
    pageSize: Annotated[int, Field(description="The most attempts a page holds: the limit.")]
    totalSize: Annotated[int, Field(description="Attempts on all pages.")]


class Worker(Model):
    """A worker process."""

    id: Annotated[str, Field(description="nickname:UUID, or the bare UUID.")]
    node: Annotated[str, Field(description="Its server.")]
    types: Annotated[list[str], Field(description="The task types it takes.")]
    concurrency: Annotated[int, Field(description="Tasks it runs at once.")]
    only_targeted: Annotated[bool, Field(description="Does it take only tasks that name its node?")]
    schedules: Annotated[bool, Field(description="Does it see to the fleet's housekeeping?")]
    version: str
    started_at: Time
    renewed_at: Annotated[Time, Field(description="Its last sign of life.")]
    status: Annotated[
        Literal["live", "paused", "draining", "lost"], Field(description="lost: no sign of life for a lease.")
    ]
    orders: Annotated[Literal["work", "pause", "drain"], Field(description="What it was told to do.")]
    running: Annotated[int, Field(description="Tasks it holds.")]


class TaskPage(Model):
    """One page of a list of tasks."""

    list: list[Task | TaskForAdmin]
    offset: Annotated[int, Field(description="Rows before this page.")]
    pageSize: Annotated[int, Field(description="The most rows a page holds: the limit.")]
    totalSize: Annotated[int, Field(description="Rows on all pages.")]


class File(Model):
    """A finished export, ready to download."""

    id: int
    filename: str
    created_at: Annotated[
        str,
        Field(description="UTC, without offset: BookLogr's client appends the Z.", examples=["2026-01-31T08:30:00.5"]),
    ]
    bytes: int
    sha256: str
    task_id: int
    format: str


class Message(Model):
    """A probe's answer."""

    status: str


class Error(Model):
    """Why a request was not served."""

    error: Annotated[str, Field(examples=["Not found"])]
    code: Annotated[str, Field(description="The HTTP status, as a text.", examples=["404"])]
    message: Annotated[str, Field(description="What was wrong, for a person.", examples=["No task exists with ID: 42"])]


_SORT = rf"^({'|'.join(SORTABLE)})(:asc|:desc)?$"


class Paging(Model):
    """The parameters of any list."""

    # Parameters are texts: here "5" is a number.
    model_config = ConfigDict(strict=False)

    offset: Annotated[int, Field(ge=0, le=MAX_BIGINT, description="Rows to pass over.")] = 0
    limit: Annotated[int, Field(ge=1, le=500, description="Rows a page.")] = 50


class ListTasks(Paging):
    """The parameters of a list of tasks."""

    status: Annotated[
        Annotated[list[Status], BeforeValidator(names)],
        Field(description=f"Only these: {', '.join(STATUSES)}. Repeated or comma-separated."),
    ] = []
    type: Annotated[Names, Field(description="Only these types. Repeated or comma-separated.")] = []
    parent: Annotated[
        int | None,
        Field(ge=-MAX_BIGINT - 1, le=MAX_BIGINT, description="Only the parts of this task made for all nodes."),
    ] = None
    sortBy: Annotated[
        str,
        Field(pattern=_SORT, description="field, field:asc (the same) or field:desc.", examples=["created_at:desc"]),
    ] = "id:desc"


class Retry(Model):
    """The parameters of a retry."""

    model_config = ConfigDict(strict=False)

    resetFailureCount: Annotated[bool, Field(description="Forget the failures so far: all retries anew.")] = False


class Configure(Model):
    """The parameters of a task's retry policy; at least one."""

    model_config = ConfigDict(strict=False)

    maxRetries: Annotated[int | None, Field(ge=0, le=1000, description="Automatic retries after a failure.")] = None
    retryDelay: Annotated[
        float | None, Field(ge=0, le=MAX_RETRY_DELAY, description="Seconds before the first retry.")
    ] = None
