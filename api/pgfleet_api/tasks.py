"""``/v1/tasks``: create, read, list, executions, retry, cancel; for admins configure and resume."""

from __future__ import annotations

from datetime import timedelta

from flask import Blueprint, Response, g

from pgfleet import db, log, tasks
from pgfleet.errors import TaskNotFound
from pgfleet.tokens import User
from pgfleet_api import deeds, messages, models, payloads, responses
from pgfleet_api.auth import admin_only, authenticated
from pgfleet_api.errors import Refused
from pgfleet_api.openapi import documented
from pgfleet_api.state import State, state

blueprint = Blueprint("tasks", __name__, url_prefix="/v1/tasks")


@blueprint.post("")
@documented(
    "Create a task",
    "Answers as soon as the row is committed. Where an unfinished task holds the unique_key, its id comes with 200.",
    body=models.NewTask,
    answers={202: models.TaskCreated, 200: models.TaskCreated},
    errors=(400, 403, 409, 413, 415, 422),
)
@authenticated
def create(user: User) -> Response:
    wanted = messages.body(models.NewTask)
    if wanted.run_at is not None and wanted.delay is not None:
        raise Refused(422, "run_at and delay exclude each other: give one of them.")
    if (wanted.node is not None or wanted.all_nodes) and not user.is_admin:
        raise Refused(403, "Only an admin may say on which nodes a task runs: leave out node and all_nodes.")
    data = payloads.check(wanted.type, wanted.data, user)
    fleet = state()
    if wanted.all_nodes:
        id = _for_all_nodes(wanted, data, user)
        _log_created(fleet, id, wanted.type, user)
        return _created(id)
    made = fleet.creator.create(
        tasks.Wanted(
            type=wanted.type,
            data=data,
            created_by=user.id,
            any_type=user.is_admin,
            priority=wanted.priority,
            run_at=wanted.run_at,
            delay=wanted.delay,
            max_retries=wanted.max_retries,
            retry_delay=wanted.retry_delay,
            unique_key=wanted.unique_key,
            timeout=wanted.timeout,
            node=wanted.node,
        )
    )
    if made is None:
        raise _type_refused(wanted.type, user)
    id, created = made
    if not created:
        _require_ones_own(id, user)
        return _created(id, "An unfinished task holds this unique_key.", 200)
    _log_created(fleet, id, wanted.type, user)
    return _created(id)


@blueprint.get("/<id>")
@documented("A task's row", answers={200: models.Task | models.TaskForAdmin}, errors=(400, 404))
@authenticated
def read(user: User, id: str) -> Response:
    with state().connections.take() as conn:
        return messages.answer(_row(conn, user, messages.task_id(id)))


@blueprint.get("")
@documented(
    "The caller's tasks, or all for an admin", query=models.ListTasks, answers={200: models.TaskPage}, errors=(400,)
)
@authenticated
def find(user: User) -> Response:
    wanted = messages.query(models.ListTasks)
    sort, _, direction = wanted.sortBy.partition(":")
    with state().connections.take() as conn:
        page = tasks.find(
            conn,
            created_by=None if user.is_admin else user.id,
            status=wanted.status,
            type=wanted.type,
            parent=wanted.parent,
            offset=wanted.offset,
            limit=wanted.limit,
            sort=sort,
            descending=direction == "desc",
        )
    rows = [responses.task(row, for_admin=user.is_admin) for row in page.rows]
    return messages.answer(
        models.TaskPage.model_construct(list=rows, offset=page.offset, pageSize=wanted.limit, totalSize=page.total)
    )


@blueprint.post("/<id>/retry")
@documented(
    "Make a failed, crashed or cancelled task ready again",
    query=models.Retry,
    answers={200: models.Task | models.TaskForAdmin},
    errors=(400, 404, 409),
)
@authenticated
def retry(user: User, id: str) -> Response:
    wanted = messages.query(models.Retry)
    with state().connections.take() as conn:
        number = _row(conn, user, messages.task_id(id)).id
        tasks.retry(conn, number, reset_failure_count=wanted.resetFailureCount)
        row = _row(conn, user, number)
    _log("task.retried", row, user)
    return messages.answer(row)


@blueprint.get("/<id>/executions")
@documented(
    "The attempts at a task, the latest first",
    query=models.Paging,
    answers={200: models.ExecutionPage},
    errors=(400, 404),
)
@authenticated
def executions(user: User, id: str) -> Response:
    wanted = messages.query(models.Paging)
    with state().connections.take() as conn:
        number = _row(conn, user, messages.task_id(id)).id
        page = tasks.executions(conn, number, offset=wanted.offset, limit=wanted.limit)
    rows = [responses.execution(row, for_admin=user.is_admin) for row in page.rows]
    return messages.answer(
        models.ExecutionPage.model_construct(list=rows, offset=page.offset, pageSize=wanted.limit, totalSize=page.total)
    )


@blueprint.delete("/<id>")
@documented(
    "Call off a task",
    "204: it had not started, and is cancelled. 202: it runs, its worker is told; poll it until its status says cancelled.",
    answers={204: None, 202: models.CancelRequested},
    errors=(400, 404, 409),
)
@authenticated
def cancel(user: User, id: str) -> Response:
    with state().connections.take() as conn:
        row = _row(conn, user, messages.task_id(id))
        status = tasks.cancel(conn, row.id)
    if status == "cancelled":
        _log("task.cancelled", row, user)
        return Response(status=204)
    _log("task.cancel_requested", row, user)
    answer = models.CancelRequested.model_construct(message="Cancellation requested.", task_id=row.id)
    return messages.answer(answer, 202, {"Location": f"/v1/tasks/{row.id}"})


@blueprint.put("/<id>/config")
@documented(
    "Change a task's retry policy",
    query=models.Configure,
    answers={200: models.TaskForAdmin},
    errors=(400, 403, 404, 409),
)
@admin_only
def configure(user: User, id: str) -> Response:
    wanted = messages.query(models.Configure)
    if wanted.maxRetries is None and wanted.retryDelay is None:
        raise Refused(400, "Give maxRetries, retryDelay or both.")
    number = messages.task_id(id)
    with state().connections.take() as conn:
        tasks.configure(conn, number, max_retries=wanted.maxRetries, retry_delay=_duration(wanted.retryDelay))
        row = _row(conn, user, number)
    _log("task.configured", row, user)
    return messages.answer(row)


@blueprint.post("/<id>/resume")
@documented(
    "Make a crashed task ready again, its crashes forgiven",
    answers={200: models.TaskForAdmin},
    errors=(400, 403, 404, 409),
)
@admin_only
def resume(user: User, id: str) -> Response:
    number = messages.task_id(id)
    with state().connections.take() as conn:
        tasks.resume(conn, number)
        row = _row(conn, user, number)
    _log("task.resumed", row, user)
    return messages.answer(row)


def _created(id: int, message: str = "Task created.", status: int = 202) -> Response:
    answer = models.TaskCreated.model_construct(message=message, task_id=id)
    return messages.answer(answer, status, {"Location": f"/v1/tasks/{id}"})


def _for_all_nodes(wanted: models.NewTask, data: str | None, user: User) -> int:
    """The id of the parent. 422 with what a task for all nodes can't have, for an unknown type, and without a live node."""
    unfit = [name for name in ("node", "run_at", "delay", "unique_key") if getattr(wanted, name) is not None]
    if unfit:
        raise Refused(422, f"all_nodes: it excludes {', '.join(unfit)}.")
    with state().connections.take() as conn:
        return tasks.create_for_all_nodes(
            conn,
            wanted.type,
            data,
            created_by=user.id,
            priority=wanted.priority,
            max_retries=wanted.max_retries,
            retry_delay=_duration(wanted.retry_delay),
            timeout=_duration(wanted.timeout),
        )


def _duration(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def _type_refused(type: str, user: User) -> Refused:
    """422 for a type that is unknown, 403 for one the caller may not create; both name those they may."""
    with state().connections.take() as conn:
        known = tasks.types(conn)
    mine = [row["name"] for row in known if row["for_readers"] or user.is_admin]
    may = f"You may create: {', '.join(mine) or 'none'}."
    if any(row["name"] == type for row in known):
        return Refused(403, f"Only an admin may create tasks of type {type!r}. {may}")
    return Refused(422, f"Unknown task type {type!r}. {may}")


def _require_ones_own(id: int, user: User) -> None:
    """A key is one for all users: whoever meets another's task by it must not learn its id."""
    with state().connections.take() as conn:
        if not user.is_admin and tasks.get(conn, id)["created_by"] != user.id:
            raise Refused(409, "Somebody else's unfinished task holds this unique_key.")


def _row(conn: db.Connection, user: User, id: int) -> models.Task:
    """The row for its owner or an admin; to all others it does not exist."""
    row = tasks.get(conn, id)
    if row["created_by"] != user.id and not user.is_admin:
        raise TaskNotFound(f"No task exists with ID: {id}")
    return responses.task(row, for_admin=user.is_admin)


def _log(event: str, row: models.Task, user: User) -> None:
    deeds.tell(event, user, task=row.id, type=row.type, attempt=row.attempt, worker=row.worker)


def _log_created(fleet: State, id: int, type: str, user: User) -> None:
    if fleet.settings.log_level == "debug":  # of all calls the one that has to be fast
        log.get().debug("task.created", task=id, type=type, user=user.id, request_id=g.request_id)
