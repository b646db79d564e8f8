"""``/cxs/tasks``: the cluster scheduler API, a contract of its own over tasks and schedules. See CLUSTER_API.md."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, request

from pgfleet import cluster, db, schedules, tasks
from pgfleet.errors import ScheduleNotFound, TaskNotFound, WrongState
from pgfleet.tokens import User
from pgfleet_api import cluster_items as items
from pgfleet_api import cluster_models as m
from pgfleet_api import deeds, errors, item_ids, kept_in_memory, messages, models
from pgfleet_api.auth import admin_only
from pgfleet_api.errors import Refused
from pgfleet_api.openapi import documented
from pgfleet_api.state import state

blueprint = Blueprint("cluster", __name__, url_prefix="/cxs/tasks")

#: Our statuses in the order of the contract's words.
_RANKED = sorted(m.STATUSES, key=lambda status: m.STATUSES[status])


@blueprint.get("")
@documented(
    "All tasks; before them, what workers keep in memory, and the schedules",
    query=m.ListItems,
    answers={200: m.ItemPage},
    errors=(400, 403),
)
@admin_only
def find(user: User) -> Response:
    wanted = messages.query(m.ListItems)
    field, _, direction = (wanted.sortBy or "itemId:desc").partition(":")
    with state().connections.take() as conn:
        kept = kept_in_memory.find(conn)
        page = cluster.find(
            conn,
            kept=[items.sortable(one) for one in kept],
            status=[ours for ours, word in m.STATUSES.items() if word in wanted.status] if wanted.status else None,
            type=wanted.type or None,
            offset=wanted.offset,
            limit=wanted.limit,
            sort=m.SORTS[field],
            descending=direction == "desc",
            statuses=_RANKED,
        )
    return messages.answer(
        m.ItemPage.model_construct(
            list=[
                items.of_memory(kept[row["key"]]) if row["kind"] == "memory" else items.of_row(row) for row in page.rows
            ],
            offset=wanted.offset,
            pageSize=wanted.limit,
            totalSize=page.total,
        )
    )


@blueprint.get("/<id>")
@documented("A task or a schedule", answers={200: m.Item}, errors=(403, 404))
@admin_only
def read(user: User, id: str) -> Response:
    with state().connections.take() as conn:
        return messages.answer(_in_memory(conn, id) or items.of_row(_row(conn, id)))


@blueprint.delete("/<id>")
@documented(
    "Call off a task, remove a schedule",
    "What runs is told to stop, and is CANCELLED once it has. A schedule is gone; its run goes on.",
    answers={204: None},
    errors=(403, 404, 409),
)
@admin_only
def cancel(user: User, id: str) -> Response:
    with state().connections.take() as conn:
        row = _stored(conn, id)
        if row["kind"] == "schedule":
            event = "schedule.removed"
            schedules.remove(conn, row["schedule"])
        else:
            event = "task.cancelled" if tasks.cancel(conn, row["id"]) == "cancelled" else "task.cancel_requested"
    _log(event, row, user)
    return Response(status=204)


@blueprint.post("/<id>/retry")
@documented(
    "Let what has failed, crashed or been cancelled begin anew",
    "A schedule that is disabled is enabled; one that is done gets a new run.",
    query=models.Retry,
    answers={200: m.Item},
    errors=(400, 403, 404, 409),
)
@admin_only
def retry(user: User, id: str) -> Response:
    reset = messages.query(models.Retry).resetFailureCount
    with state().connections.take() as conn:
        row = _stored(conn, id)
        if row["kind"] == "schedule":
            event = "schedule.retried"
            cluster.retry_schedule(conn, row["schedule"], reset_failure_count=reset)
        else:
            event = "task.retried"
            tasks.retry(conn, row["id"], reset_failure_count=reset)
        return _changed(conn, event, row, user)


@blueprint.put("/<id>/config")
@documented(
    "Change a task's retry policy, or that of a schedule's runs to come",
    query=m.Configure,
    answers={200: m.Item},
    errors=(400, 403, 404, 409),
)
@admin_only
def configure(user: User, id: str) -> Response:
    wanted = messages.query(m.Configure)
    if wanted.maxRetries is None and wanted.retryDelay is None:
        raise Refused(400, "Give maxRetries, retryDelay or both.")
    delay = None if wanted.retryDelay is None else timedelta(milliseconds=wanted.retryDelay)
    with state().connections.take() as conn:
        row = _stored(conn, id)
        if row["kind"] == "schedule":
            event = "schedule.configured"
            cluster.configure_schedule(conn, row["schedule"], max_retries=wanted.maxRetries, retry_delay=delay)
        else:
            event = "task.configured"
            tasks.configure(conn, row["id"], max_retries=wanted.maxRetries, retry_delay=delay)
        return _changed(conn, event, row, user)


@blueprint.post("/<id>/resume")
@documented(
    "Let what has crashed go on from its checkpoint",
    "Of a schedule, its latest run.",
    answers={200: m.Item},
    errors=(403, 404, 409),
)
@admin_only
def resume(user: User, id: str) -> Response:
    with state().connections.take() as conn:
        row = _stored(conn, id)
        if row["kind"] == "schedule":
            event = "schedule.resumed"
            cluster.resume_schedule(conn, row["schedule"])
        else:
            event = "task.resumed"
            tasks.resume(conn, row["id"])
        return _changed(conn, event, row, user)


@blueprint.errorhandler(TaskNotFound)
@blueprint.errorhandler(ScheduleNotFound)  # removed since it was looked up
def unknown(error: TaskNotFound | ScheduleNotFound) -> Response:
    """404 in the contract's words, with the id as it was given."""
    response = errors.body(404, f"No task exists with ID: {_given()}")
    body = json.loads(response.get_data())
    response.set_data(json.dumps({**body, "error": "Task not found"}))
    return response


@blueprint.errorhandler(WrongState)
def refused(error: WrongState) -> Response:
    """409 in the contract's words for statuses."""
    return errors.body(409, items.in_its_words(error.message, _given()))


def _given() -> str:
    return str((request.view_args or {}).get("id"))


def _row(conn: db.Connection, id: str) -> dict[str, Any]:
    """The row of a task or a schedule. Raises TaskNotFound where that UUID is none of either."""
    number = item_ids.task_of(id)
    if number is not None:
        return cluster.get(conn, task=number)
    if not item_ids.is_uuid(id):
        raise TaskNotFound(f"No task exists with ID: {id}")
    return cluster.get(conn, item=UUID(id))


def _stored(conn: db.Connection, id: str) -> dict[str, Any]:
    """The same; 409 for something in memory."""
    if _in_memory(conn, id) is not None:
        raise Refused(409, f"{id} is kept in memory by a worker; only that worker's code changes it.")
    return _row(conn, id)


def _changed(conn: db.Connection, event: str, row: dict[str, Any], user: User) -> Response:
    """The item as it is now, and a line in the log."""
    now = cluster.get(conn, task=row["id"], item=row["item_id"])
    _log(event, now, user)
    return messages.answer(items.of_row(now))


def _log(event: str, row: dict[str, Any], user: User) -> None:
    if row["kind"] == "schedule":
        deeds.tell(event, user, schedule=row["schedule"])
    else:
        deeds.tell(event, user, task=row["id"], type=row["type"], attempt=row["attempt"], worker=row["worker"])


def _in_memory(conn: db.Connection, id: str) -> m.Item | None:
    if item_ids.task_of(id) is not None or not item_ids.is_uuid(id):
        return None
    found = (items.of_memory(one) for one in kept_in_memory.find(conn))
    return next((item for item in found if item.itemId == id.lower()), None)
