"""``/cxs/tasks``: the cluster scheduler API, a contract of its own over the tasks. See CLUSTER_API.md."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from flask import Blueprint, Response, request

from pgfleet import cluster, db, tasks
from pgfleet.errors import TaskNotFound
from pgfleet.tokens import User
from pgfleet_api import cluster_models as m
from pgfleet_api import deeds, errors, item_ids, kept_in_memory, messages, models, responses
from pgfleet_api.auth import admin_only
from pgfleet_api.errors import Refused
from pgfleet_api.openapi import documented
from pgfleet_api.schedule_models import Schedule
from pgfleet_api.state import state

blueprint = Blueprint("cluster", __name__, url_prefix="/cxs/tasks")

#: Our statuses in the order of the contract's words.
_RANKED = sorted(m.STATUSES, key=lambda status: m.STATUSES[status])


@blueprint.get("")
@documented(
    "All tasks; before them, what workers keep in memory",
    query=m.ListItems,
    answers={200: m.ItemPage},
    errors=(400, 403),
)
@admin_only
def find(user: User) -> Response:
    wanted = messages.query(m.ListItems)
    field, _, direction = (wanted.sortBy or "itemId:desc").partition(":")
    with state().connections.take() as conn:
        kept = _kept(conn, wanted, field, descending=direction == "desc")
        first = kept[wanted.offset :][: wanted.limit]
        page = cluster.find(
            conn,
            status=[ours for ours, word in m.STATUSES.items() if word in wanted.status] if wanted.status else None,
            type=wanted.type or None,
            offset=max(0, wanted.offset - len(kept)),
            limit=wanted.limit - len(first),
            sort=m.SORTS[field],
            descending=direction == "desc",
            statuses=_RANKED,
        )
    return messages.answer(
        m.ItemPage.model_construct(
            list=[*first, *(_of_task(row) for row in page.rows)],
            offset=wanted.offset,
            pageSize=wanted.limit,
            totalSize=len(kept) + page.total,
        )
    )


@blueprint.get("/<id>")
@documented("A task", answers={200: m.Item}, errors=(403, 404))
@admin_only
def read(user: User, id: str) -> Response:
    number = item_ids.task_of(id)
    with state().connections.take() as conn:
        if number is not None:
            return messages.answer(_of_task(cluster.get(conn, number)))
        found = _in_memory(conn, id)
    if found is None:
        raise TaskNotFound(f"No task exists with ID: {id}")
    return messages.answer(found)


@blueprint.delete("/<id>")
@documented(
    "Call off a task",
    "What runs is told to stop, and is CANCELLED once it has.",
    answers={204: None},
    errors=(403, 404, 409),
)
@admin_only
def cancel(user: User, id: str) -> Response:
    with state().connections.take() as conn:
        row = cluster.get(conn, _number(conn, id))
        status = tasks.cancel(conn, row["id"])
    _log("task.cancelled" if status == "cancelled" else "task.cancel_requested", row, user)
    return Response(status=204)


@blueprint.post("/<id>/retry")
@documented(
    "Make a failed, crashed or cancelled task ready again",
    query=models.Retry,
    answers={200: m.Item},
    errors=(400, 403, 404, 409),
)
@admin_only
def retry(user: User, id: str) -> Response:
    wanted = messages.query(models.Retry)
    with state().connections.take() as conn:
        number = _number(conn, id)
        tasks.retry(conn, number, reset_failure_count=wanted.resetFailureCount)
        row = cluster.get(conn, number)
    _log("task.retried", row, user)
    return messages.answer(_of_task(row))


@blueprint.put("/<id>/config")
@documented("Change a task's retry policy", query=m.Configure, answers={200: m.Item}, errors=(400, 403, 404, 409))
@admin_only
def configure(user: User, id: str) -> Response:
    wanted = messages.query(m.Configure)
    if wanted.maxRetries is None and wanted.retryDelay is None:
        raise Refused(400, "Give maxRetries, retryDelay or both.")
    delay = None if wanted.retryDelay is None else timedelta(milliseconds=wanted.retryDelay)
    with state().connections.take() as conn:
        number = _number(conn, id)
        tasks.configure(conn, number, max_retries=wanted.maxRetries, retry_delay=delay)
        row = cluster.get(conn, number)
    _log("task.configured", row, user)
    return messages.answer(_of_task(row))


@blueprint.post("/<id>/resume")
@documented("Let a crashed task go on from its checkpoint", answers={200: m.Item}, errors=(403, 404, 409))
@admin_only
def resume(user: User, id: str) -> Response:
    with state().connections.take() as conn:
        number = _number(conn, id)
        tasks.resume(conn, number)
        row = cluster.get(conn, number)
    _log("task.resumed", row, user)
    return messages.answer(_of_task(row))


@blueprint.errorhandler(TaskNotFound)
def unknown(error: TaskNotFound) -> Response:
    """404 in the contract's words, with the id as it was given."""
    response = errors.body(404, f"No task exists with ID: {(request.view_args or {}).get('id')}")
    body = json.loads(response.get_data())
    response.set_data(json.dumps({**body, "error": "Task not found"}))
    return response


def _number(conn: db.Connection, id: str) -> int:
    """The task's id; 404 where the UUID is none of a task, 409 where it is of something in memory."""
    number = item_ids.task_of(id)
    if number is not None:
        return number
    if _in_memory(conn, id) is not None:
        raise Refused(409, f"{id} is kept in memory by a worker; only that worker's code changes it.")
    raise TaskNotFound(f"No task exists with ID: {id}")


def _log(event: str, row: dict[str, Any], user: User) -> None:
    deeds.tell(event, user, task=row["id"], type=row["type"], attempt=row["attempt"], worker=row["worker"])


def _in_memory(conn: db.Connection, id: str) -> m.Item | None:
    items = (_of_memory(one) for one in kept_in_memory.find(conn))
    return next((item for item in items if item.itemId == id.lower()), None)


def _kept(conn: db.Connection, wanted: m.ListItems, field: str, *, descending: bool) -> list[m.Item]:
    """What is kept in memory and matches the filters, by name, or sorted as tasks are: what has no such value last."""
    items = [_of_memory(one) for one in kept_in_memory.find(conn)]
    found = [
        item
        for item in items
        if item.status in (wanted.status or (item.status,)) and item.taskType in (wanted.type or (item.taskType,))
    ]
    if field == "itemId":  # theirs are in no order
        return found
    valued = [item for item in found if getattr(item, field) is not None]
    valued.sort(key=lambda item: getattr(item, field), reverse=descending)
    return valued + [item for item in found if getattr(item, field) is None]


def _of_task(row: dict[str, Any]) -> m.Item:
    # What is in force is worked out as for /v1/tasks; `type_timeout` is none of this contract.
    task = responses.task({**row, "type_timeout": None}, for_admin=True)
    assert isinstance(task, models.TaskForAdmin)  # noqa: S101 - asked for
    return m.Item.model_construct(
        itemId=item_ids.of_task(task.id),
        taskType=task.type,
        status=m.STATUSES[task.status],
        nextScheduledExecution=responses.time(row["next_execution"]),
        lastExecutionDate=responses.time(row["last_execution"]),
        failureCount=task.failure_count,
        persistent=True,
        parameters=responses.parsed(task.data),
        currentStep=task.current_step,
        statusDetails={
            "attempt": task.attempt,
            "worker": task.worker,
            "progress": task.progress,
            "secondsLeft": task.seconds_left,
            "cancelRequested": task.cancel_requested,
            "error": task.error,
            "result": task.result,
        },
        checkpointData=task.checkpoint,
        maxRetries=task.max_retries,
        retryDelay=round(task.retry_delay * 1000),
    )


def _of_memory(kept: Schedule) -> m.Item:
    return m.Item.model_construct(
        itemId=item_ids.of_memory(kept.worker or "", kept.name),
        taskType=kept.name,
        status=_status_in_memory(kept),
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


def _status_in_memory(kept: Schedule) -> m.Status:
    if kept.running:
        return "RUNNING"
    if kept.next_due is not None or kept.last_status is None:
        return "SCHEDULED"
    return {"success": m.STATUSES["success"], "cancelled": m.STATUSES["cancelled"]}.get(kept.last_status, "FAILED")
