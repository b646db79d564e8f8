"""What the cluster scheduler API's requests and responses hold; see CLUSTER_API.md."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from pgfleet_api.fields import MAX_RETRY_DELAY, Names, Time, names
from pgfleet_api.models import Model, Paging

Status = Literal["SCHEDULED", "WAITING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "CRASHED"]

#: Our statuses, in the contract's words.
STATUSES: dict[str, Status] = {
    "waiting": "SCHEDULED",
    "fresh": "WAITING",
    "started": "RUNNING",
    "success": "COMPLETED",
    "failure": "FAILED",
    "cancelled": "CANCELLED",
    "crashed": "CRASHED",
}

#: What a list can be sorted by, and what that is called in queries/cluster.sql. Ids sort by nothing but the kinds' own order.
SORTS = {
    "itemId": "nothing",
    "taskType": "type",
    "status": "status_rank",
    "nextScheduledExecution": "next_execution",
    "lastExecutionDate": "last_execution",
    "failureCount": "failure_count",
}


class Item(Model):
    """A task, a schedule, or a schedule that a worker keeps in memory."""

    itemId: Annotated[str, Field(json_schema_extra={"format": "uuid"})]
    taskType: Annotated[
        str, Field(description="The task's type, or that of the schedule's runs; of one in memory, its name.")
    ]
    status: Status
    nextScheduledExecution: Annotated[Time | None, Field(description="When it is due; null where no time is set.")]
    lastExecutionDate: Annotated[
        Time | None, Field(description="When its last attempt began; when a schedule's last run was made.")
    ]
    failureCount: Annotated[int, Field(description="Of the task's attempts, or of the schedule's runs.")]
    persistent: Annotated[bool, Field(description="False: kept in a worker's memory, gone with it.")]
    parameters: Annotated[Any, Field(description="Its data: JSON parsed, any other text as it is.")]
    currentStep: str | None
    statusDetails: Annotated[
        dict[str, Any],
        Field(
            description="Of a task: attempt, worker, progress (0 to 1), secondsLeft, cancelRequested, error, result, schedule; "
            "of a schedule: schedule, enabled, running, owed, lastRun, lastStatus, successCount, skipped and error."
        ),
    ]
    checkpointData: Annotated[Any, Field(description="What its next attempt goes on from.")]
    maxRetries: int
    retryDelay: Annotated[int, Field(description="Milliseconds.")]


class ItemPage(Model):
    """One page of a list of items."""

    list: list[Item]
    offset: Annotated[int, Field(description="Items before this page.")]
    pageSize: Annotated[int, Field(description="The most items a page holds: the limit.")]
    totalSize: Annotated[int, Field(description="Items on all pages.")]


class ListItems(Paging):
    """The parameters of a list of items; filters combine."""

    status: Annotated[
        Annotated[list[Status], BeforeValidator(names)],
        Field(default_factory=list, description="Only these. Repeated or comma-separated."),
    ]
    type: Annotated[
        Names, Field(default_factory=list, description="Only these task types. Repeated or comma-separated.")
    ]
    sortBy: Annotated[
        str | None,
        Field(pattern=rf"^({'|'.join(SORTS)})(:asc|:desc)?$", description="field, field:asc (the same) or field:desc."),
    ] = None


class Configure(Model):
    """The parameters of an item's retry policy; at least one."""

    model_config = ConfigDict(strict=False)

    maxRetries: Annotated[int | None, Field(ge=0, le=1000, description="Automatic retries after a failure.")] = None
    retryDelay: Annotated[
        int | None, Field(ge=0, le=MAX_RETRY_DELAY * 1000, description="Milliseconds before the first retry.")
    ] = None
