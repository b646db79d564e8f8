"""What requests and responses hold. The OpenAPI document is made from these, so each field says what it means here.

Requests are validated strictly (``"5"`` is no number) and refuse unknown fields. Response models hold values as JSON
has them, times already written out: they describe and order the fields, and are dumped as they are.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from pgfleet.tasks import MAX_BIGINT, SORTABLE, STATUSES

#: Ten years, in seconds: as far ahead as a task may be put off.
MAX_DELAY = 315_360_000
#: A year, in seconds: the longest first pause between retries, as the table's own check has it.
MAX_RETRY_DELAY = 31_536_000

_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.,]\d{1,9})?)?(Z|z|[+-]\d\d(:?\d\d)?)", re.ASCII)


def storable(text: str) -> str:
    """``text``, if Postgres can store it; :class:`ValueError` for NUL characters and lone surrogates."""
    if "\x00" in text:
        raise ValueError("it holds a NUL character (\\u0000), which Postgres can't store")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half a surrogate pair, which is no character") from None
    return text


def _moment(value: object) -> object:
    """An ISO 8601 time with offset. Pydantic alone would take numbers and times without offset as well."""
    if not isinstance(value, str) or not _DATE_TIME.fullmatch(value):
        raise ValueError("expected an ISO 8601 time with offset, such as 2026-01-31T09:30:00+01:00")
    try:
        moment = datetime.fromisoformat(value.upper())
        moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("there is no such time") from None
    return moment


Text = Annotated[str, AfterValidator(storable)]
Moment = Annotated[datetime, BeforeValidator(_moment, json_schema_input_type=datetime)]
#: A time in a response, written out.
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Status = Literal["waiting", "fresh", "started", "success", "failure", "crashed", "cancelled"]


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


class TaskCreated(Model):
    """The task's id, to poll it with."""

    message: Annotated[str, Field(examples=["Task created."])]
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
    unique_key: str | None
    result: Annotated[Any, Field(description="What the work returned: JSON parsed, any other text as it is.")]
    error: Annotated[str | None, Field(description="Why it failed, for its owner.")]


class TaskForAdmin(Task):
    """A task's row, with what only operators see."""

    error_detail: Annotated[str | None, Field(description="The traceback.")]


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


def _names(value: object) -> object:
    """A filter that may be repeated, comma-separated, or both."""
    assert isinstance(value, list)  # noqa: S101 - incoming.query gives lists to fields that are lists
    return [name for part in value for name in part.split(",") if name]


Names = Annotated[list[Text], BeforeValidator(_names)]
_SORT = rf"^({'|'.join(SORTABLE)})(:asc|:desc)?$"


class ListTasks(Model):
    """The parameters of a list of tasks."""

    # Parameters are texts: here "5" is a number.
    model_config = ConfigDict(strict=False)

    status: Annotated[
        Annotated[list[Status], BeforeValidator(_names)],
        Field(description=f"Only these: {', '.join(STATUSES)}. Repeated or comma-separated."),
    ] = []
    type: Annotated[Names, Field(description="Only these types. Repeated or comma-separated.")] = []
    offset: Annotated[int, Field(ge=0, le=MAX_BIGINT, description="Rows to pass over.")] = 0
    limit: Annotated[int, Field(ge=1, le=500, description="Rows a page.")] = 50
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


def time(value: datetime | None) -> str | None:
    """A time of the database, as responses show it: UTC, with offset."""
    return None if value is None else value.astimezone(UTC).isoformat()


def task(row: dict[str, Any], *, for_admin: bool) -> Task:
    """The response for one row of :func:`pgfleet.tasks.get`."""
    own, default = row["retry_delay"], row["type_retry_delay"]
    delay: timedelta | None = default if own is None else own
    retries = row["type_max_retries"] if row["max_retries"] is None else row["max_retries"]
    values = {
        **{name: row[name] for name in Task.model_fields if name in row},
        "created_at": time(row["created_at"]),
        "updated_on": time(row["updated_on"]),
        "run_at": time(row["run_at"]),
        "started_at": time(row["started_at"]),
        "max_retries": retries or 0,
        "retry_delay": 10.0 if delay is None else delay.total_seconds(),  # its type is gone: what fail_task takes
        "result": parsed(row["result"]),
    }
    if for_admin:
        return TaskForAdmin.model_construct(**values, error_detail=row["error_detail"])
    return Task.model_construct(**values)


def parsed(text: str | None) -> Any:
    """A stored result: what its JSON says, or the text itself where it is none."""
    if text is None:
        return None
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def file(row: dict[str, Any]) -> File:
    """The response for one row of :func:`pgfleet.exports.of_owner`."""
    created_at = row["created_at"].astimezone(UTC).replace(tzinfo=None).isoformat()
    values = {**{name: row[name] for name in File.model_fields}, "created_at": created_at}
    return File.model_construct(**values)
