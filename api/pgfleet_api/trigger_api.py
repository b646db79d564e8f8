"""``/api/v1/backgroundtasks``: the trigger API, a contract of its own over the schedules. See TRIGGER_API.md."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from ipaddress import IPv6Address, ip_address
from typing import Any, Concatenate, ParamSpec

from flask import Blueprint, Response, g, request

from pgfleet import db, schedules
from pgfleet.errors import RunUnfinished, ScheduleNotFound
from pgfleet.tokens import User
from pgfleet_api import deeds, errors, fields, kept_in_memory, messages
from pgfleet_api import trigger_models as m
from pgfleet_api.auth import caller
from pgfleet_api.errors import Refused
from pgfleet_api.openapi import documented
from pgfleet_api.state import state

P = ParamSpec("P")

blueprint = Blueprint("backgroundtasks", __name__, url_prefix="/api/v1/backgroundtasks")

#: The words of the contract, by HTTP status; of the others it says nothing.
RESPONSE_CODES = {400: "CLIENT_ERROR", 401: "UNAUTHORIZED", 404: "RESOURCE_NOT_FOUND"}
RUNNING_ALREADY = "Job currently in running state, please try after sometime"

#: By any of these a proxy says that it hands on somebody else's request.
FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")

#: Schedules read at once.
PAGE = 500


def permitted(view: Callable[Concatenate[User | None, P], Response]) -> Callable[P, Response]:
    """For those whom the setting ``trigger_api`` lets in; all others get 401, as the contract has it.

    The view's first argument is the admin; None where no token was asked for.
    """

    @wraps(view)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Response:
        rule = state().settings.trigger_api
        if rule != "admins" and not _from_here():
            raise Refused(401, "This is served to processes on its own machine alone.")
        if rule == "loopback":
            _refuse_pages()
            return view(None, *args, **kwargs)
        user = caller()
        if not user.is_admin:
            raise Refused(401, "Only an admin may do this.")
        return view(user, *args, **kwargs)

    wrapper.who = "admin"  # type: ignore[attr-defined] # read by openapi.py
    return wrapper


@blueprint.get("")
@documented("The schedules of the live registry", answers={200: m.BackgroundTasks, 401: m.Refusal, 503: m.Refusal})
@permitted
def read(user: User | None) -> Response:
    with state().connections.take() as conn:
        listed = _registry(conn)
    result = m.Read.model_construct(response=listed)
    return messages.answer(m.BackgroundTasks.model_construct(**_envelope(), result=result))


@blueprint.post("/trigger/<name>")
@documented(
    "Start a run of a schedule now",
    "400: one is waiting or going.",
    answers={200: m.Triggered, 400: m.Refusal, 401: m.Refusal, 404: m.Refusal, 503: m.Refusal},
)
@permitted
def trigger(user: User | None, name: str) -> Response:
    try:
        fields.storable(name)
    except ValueError as error:
        raise Refused(404, f"No schedule has such a name: {error}.") from None
    with state().connections.take() as conn:
        try:
            if schedules.get(conn, name).stale:
                raise Refused(404, f'Schedule "{name}" is stale: no live worker\'s code declares it any more.')
            id = schedules.trigger(conn, name)
        except ScheduleNotFound:
            if kept_in_memory.find(conn, name):
                raise Refused(
                    404, f'Schedule "{name}" is kept in memory by its workers, which alone start it.'
                ) from None
            raise
    deeds.tell("schedule.triggered", user, schedule=name, task=id)
    result = m.Started.model_construct(response="SUCCESS")
    return messages.answer(m.Triggered.model_construct(**_envelope(), result=result))


@blueprint.errorhandler(Exception)
def refuse(error: Exception) -> Response:
    """The contract's envelope about what any other route would answer."""
    response = errors.answer(error)
    status = response.status_code
    if isinstance(error, RunUnfinished):
        response.status_code, err, errmsg = 400, "JOB_ALREADY_RUNNING", RUNNING_ALREADY
    else:
        err, errmsg = RESPONSE_CODES.get(status, "SERVER_ERROR"), json.loads(response.get_data())["message"]
    code = RESPONSE_CODES.get(response.status_code, "SERVER_ERROR")
    answer = m.Refusal.model_construct(**_envelope(err, errmsg, code), result={})
    response.set_data(messages.answer(answer).get_data())
    return response


def _envelope(err: str | None = None, errmsg: str | None = None, code: str = "OK") -> dict[str, Any]:
    now = datetime.now(UTC)
    params = m.Params.model_construct(
        resmsgid=None, msgid=g.request_id, err=err, status="failure" if err else "success", errmsg=errmsg
    )
    return {
        "id": f"api.{request.endpoint}",
        "ver": "v1",
        "ts": f"{now:%Y-%m-%d %H:%M:%S}:{now.microsecond // 1000:03d}{now:%z}",
        "params": params,
        "responseCode": code,
    }


def _registry(conn: db.Connection) -> list[m.BackgroundTask]:
    """Every schedule that is stored and not stale, by name, and then those in memory, each name once."""
    listed: dict[str, m.BackgroundTask] = {}
    offset = 0
    while page := schedules.find(conn, stale=False, offset=offset, limit=PAGE).schedules:
        for one in page:
            listed[one.name] = _task(one.group, one.name, one.description)
        offset += len(page)
    for kept in kept_in_memory.find(conn):
        listed.setdefault(kept.name, _task(kept.group, kept.name, kept.description))
    return list(listed.values())


def _task(group: str, name: str, description: str) -> m.BackgroundTask:
    return m.BackgroundTask.model_construct(taskGroup=group, taskName=name, description=description)


def _from_here() -> bool:
    """Does the request come from this machine? By the connection's peer; a header can only speak against it."""
    try:
        peer = ip_address(request.environ.get("REMOTE_ADDR", ""))
    except ValueError:
        return False
    if isinstance(peer, IPv6Address) and peer.ipv4_mapped is not None:
        peer = peer.ipv4_mapped
    return peer.is_loopback and not any(name in request.headers for name in FORWARDED)


def _refuse_pages() -> None:
    """Without tokens, any web page that a browser on this machine shows could call: browsers say that it is one."""
    if "Origin" in request.headers or request.headers.get("Sec-Fetch-Site", "none") != "none":
        raise Refused(401, "This is not served to web pages.")
