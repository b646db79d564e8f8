"""From rows, and from what workers keep in memory, to the items of the cluster scheduler API; see CLUSTER_API.md."""

from __future__ import annotations

import re
from typing import Any

from pgfleet_api import cluster_models as m
from pgfleet_api import item_ids
from pgfleet_api.responses import parsed, time
from pgfleet_api.schedule_models import Schedule


def item_id(row: dict[str, Any]) -> str:
    """The UUID of a task or a schedule."""
    return item_ids.of_task(row["id"]) if row["kind"] == "task" else str(row["item_id"])


def of_row(row: dict[str, Any]) -> m.Item:
    """The item for a task's or a schedule's row of :func:`pgfleet.cluster.find`."""
    return m.Item.model_construct(
        itemId=item_id(row),
        taskType=row["type"],
        status=m.STATUSES[row["status"]],
        nextScheduledExecution=time(row["next_execution"]),
        lastExecutionDate=time(row["last_execution"]),
        failureCount=row["failure_count"],
        persistent=True,
        parameters=parsed(row["data"]),
        currentStep=row["current_step"],
        statusDetails=_of_task(row) if row["kind"] == "task" else _of_schedule(row),
        checkpointData=parsed(row["checkpoint"]),
        maxRetries=row["max_retries"],
        retryDelay=round(row["retry_delay"].total_seconds() * 1000),
    )


def of_memory(kept: Schedule) -> m.Item:
    """The item for what a worker keeps in memory."""
    return m.Item.model_construct(
        itemId=item_ids.of_memory(kept.worker or "", kept.name),
        taskType=kept.name,
        status=m.STATUSES[status_in_memory(kept)],
        nextScheduledExecution=kept.next_due,
        lastExecutionDate=kept.last_run_at,
        failureCount=kept.failures,
        persistent=False,
        parameters=None,
        currentStep=None,
        statusDetails={"worker": kept.worker, "error": kept.last_error},
        checkpointData=None,
        maxRetries=kept.max_retries or 0,
        retryDelay=round((kept.retry_delay or 0) * 1000),
    )


def sortable(kept: Schedule) -> dict[str, Any]:
    """What lists are filtered and sorted by of it, as :func:`pgfleet.cluster.find` takes it."""
    return {
        "name": kept.name,
        "type": kept.name,
        "status": status_in_memory(kept),
        "next_execution": kept.next_due,
        "last_execution": kept.last_run_at,
        "failure_count": kept.failures,
    }


def status_in_memory(kept: Schedule) -> str:
    """How it stands, in the words of tasks."""
    if kept.running:
        return "started"
    if kept.next_due is not None or kept.last_status is None:
        return "waiting"
    return kept.last_status if kept.last_status in ("success", "cancelled") else "failure"


def in_its_words(message: str, id: str) -> str:
    """What SQL says of the status of the task or schedule ``id``, in the contract's words."""
    message = re.sub(r'^(Task -?\d+|Schedule "[^"]*")', f"Task {id}", message)
    return re.sub(r"\b(\w+)\.$", lambda last: f"{m.STATUSES.get(last[1], last[1])}.", message)


def _of_task(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "attempt": row["attempt"],
        "worker": row["worker"],
        "progress": row["progress"],
        "secondsLeft": row["seconds_left"],
        "cancelRequested": row["cancel_requested"],
        "error": row["error"],
        "result": parsed(row["result"]),
        "schedule": row["schedule"],
    }


def _of_schedule(row: dict[str, Any]) -> dict[str, Any]:
    last = row["last_status"]
    return {
        "schedule": row["schedule"],
        "enabled": row["enabled"],
        "running": row["running"],
        "owed": row["owed"],
        "lastRun": None if row["last_task"] is None else item_ids.of_task(row["last_task"]),
        "lastStatus": None if last is None else m.STATUSES[last],
        "successCount": row["successes"],
        "skipped": row["skipped"],
        "error": row["error"],
    }
