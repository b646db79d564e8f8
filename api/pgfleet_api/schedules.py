"""``/v1/schedules``, ``/v1/events`` and ``/v1/firing``: what starts by itself. For admins."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from flask import Blueprint, Response

from pgfleet import db, schedules
from pgfleet.errors import ScheduleNotFound
from pgfleet.tokens import User
from pgfleet_api import deeds, fields, kept_in_memory, messages, models, payloads, responses
from pgfleet_api import schedule_models as m
from pgfleet_api.auth import admin_only
from pgfleet_api.errors import Refused
from pgfleet_api.openapi import documented
from pgfleet_api.state import state

blueprint = Blueprint("schedules", __name__, url_prefix="/v1")


@blueprint.get("/schedules")
@documented(
    "The schedules, by name; after those that are stored, those that workers keep in memory",
    query=m.ListSchedules,
    answers={200: m.SchedulePage},
    errors=(400, 403),
)
@admin_only
def find(user: User) -> Response:
    wanted = messages.query(m.ListSchedules)
    listed: list[m.Schedule] = []
    total = 0
    with state().connections.take() as conn:
        if wanted.persistent is not False:
            page = schedules.find(
                conn,
                group=wanted.group,
                type=wanted.type,
                enabled=wanted.enabled,
                stale=wanted.stale,
                offset=wanted.offset,
                limit=wanted.limit,
            )
            listed = [responses.schedule(one) for one in page.schedules]
            total = page.total
        if wanted.persistent is not True:
            kept = [one for one in kept_in_memory.find(conn) if _matches(one, wanted)]
            listed += kept[max(0, wanted.offset - total) :][: wanted.limit - len(listed)]
            total += len(kept)
    return messages.answer(
        m.SchedulePage.model_construct(list=listed, offset=wanted.offset, pageSize=wanted.limit, totalSize=total)
    )


@blueprint.get("/schedules/<name>")
@documented(
    "A schedule",
    "Of several in memory that share the name, the one of the first worker.",
    answers={200: m.Schedule},
    errors=(403, 404),
)
@admin_only
def read(user: User, name: str) -> Response:
    with state().connections.take() as conn:
        try:
            return messages.answer(_shown(conn, name))
        except ScheduleNotFound:
            kept = kept_in_memory.find(conn, name)
            if not kept:
                raise
            return messages.answer(kept[0])


@blueprint.put("/schedules/<name>")
@documented(
    "Make a schedule, or make the one of that name so",
    "Whatever the body leaves out gets its default, but `enabled`, which stays as it is. 201: it is new.",
    body=m.NewSchedule,
    answers={201: m.Schedule, 200: m.Schedule},
    errors=(400, 403, 413, 415, 422),
)
@admin_only
def put(user: User, name: str) -> Response:
    wanted = messages.body(m.NewSchedule)
    data = payloads.check(wanted.type, wanted.data, user)
    with state().connections.take() as conn, db.ours(), conn.transaction():
        # One transaction: what is shown is what was put.
        became = schedules.put(
            conn,
            schedules.Schedule(
                name=_new_name(name),
                type=wanted.type,
                triggers=tuple(_trigger(given) for given in wanted.triggers),
                data=data,
                group=wanted.group,
                description=wanted.description,
                created_by=user.id if wanted.created_by is None else wanted.created_by,
                priority=wanted.priority,
                enabled=wanted.enabled,
                max_retries=wanted.max_retries,
                retry_delay=_duration(wanted.retry_delay),
                timeout=_duration(wanted.timeout),
                node=wanted.node,
                all_nodes=wanted.all_nodes,
                overlap=wanted.overlap,
                catch_up=wanted.catch_up,
                catch_up_limit=wanted.catch_up_limit,
                time_zone=wanted.time_zone,
            ),
        )
        shown = _shown(conn, name)
    deeds.tell("schedule.put", user, schedule=name, became=became)
    return messages.answer(shown, 201 if became == "created" else 200)


@blueprint.delete("/schedules/<name>")
@documented("Forget a schedule; its runs stay, and run on", answers={204: None}, errors=(403, 404, 409))
@admin_only
def remove(user: User, name: str) -> Response:
    with state().connections.take() as conn:
        _stored(conn, name)
        schedules.remove(conn, name)
    deeds.tell("schedule.removed", user, schedule=name)
    return Response(status=204)


@blueprint.post("/schedules/<name>/enable")
@documented("Let it start by itself again, from now on", answers={200: m.Schedule}, errors=(403, 404, 409))
@admin_only
def enable(user: User, name: str) -> Response:
    with state().connections.take() as conn, db.ours(), conn.transaction():
        _stored(conn, name)
        schedules.enable(conn, name)
        shown = _shown(conn, name)
    deeds.tell("schedule.enabled", user, schedule=name)
    return messages.answer(shown)


@blueprint.post("/schedules/<name>/disable")
@documented("Let due times and events pass it by", answers={200: m.Schedule}, errors=(403, 404, 409))
@admin_only
def disable(user: User, name: str) -> Response:
    with state().connections.take() as conn, db.ours(), conn.transaction():
        _stored(conn, name)
        schedules.disable(conn, name)
        shown = _shown(conn, name)
    deeds.tell("schedule.disabled", user, schedule=name)
    return messages.answer(shown)


@blueprint.post("/schedules/<name>/trigger")
@documented(
    "Start a run now, without touching the schedule's clock",
    "409 while a run of it is waiting or going.",
    answers={202: models.TaskCreated},
    errors=(403, 404, 409),
)
@admin_only
def trigger(user: User, name: str) -> Response:
    with state().connections.take() as conn:
        _stored(conn, name)
        id = schedules.trigger(conn, name)
    deeds.tell("schedule.triggered", user, schedule=name, task=id)
    answer = models.TaskCreated.model_construct(message="Task created.", task_id=id)
    return messages.answer(answer, 202, {"Location": f"/v1/tasks/{id}"})


@blueprint.get("/schedules/<name>/runs")
@documented(
    "A schedule's runs, the latest first: tasks",
    query=models.Paging,
    answers={200: models.TaskPage},
    errors=(400, 403, 404, 409),
)
@admin_only
def runs(user: User, name: str) -> Response:
    wanted = messages.query(models.Paging)
    with state().connections.take() as conn:
        _storable(name)
        try:
            page = schedules.runs(conn, name, offset=wanted.offset, limit=wanted.limit)
        except ScheduleNotFound:
            _stored(conn, name)
            raise
    rows = [responses.task(row, for_admin=True) for row in page.rows]
    return messages.answer(
        models.TaskPage.model_construct(list=rows, offset=page.offset, pageSize=wanted.limit, totalSize=page.total)
    )


@blueprint.post("/events/<name>")
@documented(
    "Emit an event: a run of each enabled schedule with a trigger for it",
    "The body is its payload, any JSON value, or nothing. It is never lost: its tasks wait for their turn, and while firing is "
    "stopped it is held.",
    body=Any,
    answers={202: m.Emitted},
    errors=(400, 403, 413, 415, 422),
)
@admin_only
def emit(user: User, name: str) -> Response:
    payload = messages.json_body_or_nothing()
    payloads.stored(payload, "The payload")
    with state().connections.take() as conn, db.ours(), conn.transaction():
        made = schedules.emit(conn, _new_name(name), payload)
        # An event that was held keeps the row locked as it is until this commit.
        held = made == 0 and schedules.is_stopped(conn)
    deeds.tell("event.emitted", user, name=name, tasks=made, held=held)
    return messages.answer(m.Emitted.model_construct(event=name, tasks=made, held=held), 202)


@blueprint.get("/firing")
@documented("Does anything start by itself?", answers={200: m.Firing}, errors=(403,))
@admin_only
def firing(user: User) -> Response:
    with state().connections.take() as conn:
        return messages.answer(m.Firing.model_construct(stopped=schedules.is_stopped(conn)))


@blueprint.put("/firing")
@documented(
    "Stop all firing, or start it",
    "Remembered in the database. What runs, runs on; runs by hand still start; events are held until firing starts.",
    body=m.NewFiring,
    answers={200: m.FiringChanged},
    errors=(400, 403, 413, 415, 422),
)
@admin_only
def set_firing(user: User) -> Response:
    wanted = messages.body(m.NewFiring)
    made = 0
    with state().connections.take() as conn:
        if wanted.stopped:
            schedules.stop(conn)
        else:
            made = schedules.start(conn)
    deeds.tell("firing.stopped" if wanted.stopped else "firing.started", user, tasks=made)
    return messages.answer(m.FiringChanged.model_construct(stopped=wanted.stopped, tasks=made))


def _trigger(given: m.IntervalTrigger | m.CronTrigger | m.EventTrigger | m.OnceTrigger) -> schedules.Trigger:
    if isinstance(given, m.IntervalTrigger):
        return schedules.Trigger.interval(timedelta(seconds=given.every), fixed_delay=given.fixed_delay)
    if isinstance(given, m.CronTrigger):
        return schedules.Trigger.crontab(given.cron)
    if isinstance(given, m.EventTrigger):
        return schedules.Trigger.on(given.event)
    if (given.at is None) == (given.after is None):
        raise Refused(422, "triggers: a trigger of kind once needs at or after, one of them.")
    return schedules.Trigger.once(at=given.at, after=_duration(given.after))


def _storable(name: str) -> str:
    """The schedule's name from the URL; 404 where it is none that could be stored."""
    try:
        return fields.storable(name)
    except ValueError:
        raise Refused(404, "No schedule has such a name.") from None


def _new_name(name: str) -> str:
    """A name from the URL for a schedule or an event; 422 where it is none that could be stored."""
    try:
        return fields.storable(name)
    except ValueError as error:
        raise Refused(422, f"The name: {error}.") from None


def _shown(conn: db.Connection, name: str) -> m.Schedule:
    return responses.schedule(schedules.get(conn, _storable(name)))


def _stored(conn: db.Connection, name: str) -> None:
    """That there is a schedule of that name to be changed: 404 where there is none, 409 where it is one in memory."""
    try:
        schedules.get(conn, _storable(name))
    except ScheduleNotFound:
        if kept_in_memory.find(conn, name):
            raise Refused(
                409, f'Schedule "{name}" is kept in memory by its workers; only their code changes it.'
            ) from None
        raise


def _matches(one: m.Schedule, wanted: m.ListSchedules) -> bool:
    return (
        (wanted.group is None or one.group == wanted.group)
        and (wanted.type is None or one.type == wanted.type)
        and (wanted.enabled is None or one.enabled == wanted.enabled)
        and wanted.stale is not True
    )


def _duration(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
