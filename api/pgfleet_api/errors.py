"""Errors as the API answers them: ``{"error": "Not found", "code": "404", "message": …}``, never a stack trace."""

from __future__ import annotations

import json
from collections.abc import Mapping

import psycopg
from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from pgfleet import log
from pgfleet.errors import (
    DatabaseAway,
    InvalidTask,
    PgfleetError,
    RunUnfinished,
    ScheduleNotFound,
    SchemaError,
    TaskNotFound,
    UnknownType,
    UnknownWorker,
    WrongState,
)
from pgfleet.tokens import InvalidToken, KeysAway
from pgfleet.volume import NoSuchFile, VolumeError

#: The word for each status, spelled here because Python's own change between versions (413, 422).
TITLES = {
    400: "Bad request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    412: "Precondition failed",
    413: "Content too large",
    415: "Unsupported media type",
    416: "Range not satisfiable",
    422: "Unprocessable content",
    429: "Too many requests",
    500: "Internal server error",
    503: "Service unavailable",
}

#: Seconds a client should leave an absent database alone.
RETRY_AFTER = "1"

STATUS: dict[type[PgfleetError], int] = {
    InvalidToken: 401,
    TaskNotFound: 404,
    UnknownWorker: 404,
    ScheduleNotFound: 404,
    NoSuchFile: 404,
    WrongState: 409,
    RunUnfinished: 409,
    InvalidTask: 422,
    UnknownType: 422,
    DatabaseAway: 503,
    KeysAway: 503,
    SchemaError: 503,
    VolumeError: 503,
}

#: What the detail says is for operators (hosts, paths): logged, not answered.
DISCREET = (InvalidToken, DatabaseAway, KeysAway, VolumeError)


#: What passes by itself: a statement that took too long (a lock that never came free), a deadlock, a conflict, a lock's
#: timeout, a standby that is not the primary yet. Class 53, no room for more (disk, memory, connections), passes too.
PASSING = {"57014", "40P01", "40001", "55P03", "25006"}


class Refused(PgfleetError):
    """A request that is answered with ``status``, one of :data:`TITLES`."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


def body(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """The answer to a request that failed."""
    text = json.dumps({"error": TITLES.get(status, "Error"), "code": str(status), "message": message})
    response = Response(text, status, mimetype="application/json")
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="pgfleet"'
    if status == 503:
        response.headers["Retry-After"] = RETRY_AFTER
    response.headers.update(headers or {})
    return response


def init_app(app: Flask) -> None:
    """Have every error of ``app`` answered in our form."""
    app.register_error_handler(Exception, answer)


def answer(error: Exception) -> Response:
    """The response to a request that raised ``error``; what operators need to know of it is logged."""
    if isinstance(error, PgfleetError):
        return _ours(error)
    if isinstance(error, HTTPException):
        return _http(error)
    return _postgres(error) if isinstance(error, psycopg.Error) else _fault(error)


def _ours(error: PgfleetError) -> Response:
    if isinstance(error, Refused):
        return body(error.status, error.message, error.headers)
    status = next((STATUS[cls] for cls in type(error).__mro__ if cls in STATUS), None)
    if status is None:
        return _fault(error)
    if status == 503:
        log.get().error("request.unserved", path=request.path, error=str(error), request_id=g.get("request_id"))
    parts = (error.message,) if isinstance(error, DISCREET) else (error.message, error.detail)
    return body(status, " ".join(part for part in parts if part))


def _http(error: HTTPException) -> Response:
    """What Flask and Werkzeug raise themselves: unknown routes, bodies too large, unreadable requests."""
    status = error.code or 500
    headers = {k: v for k, v in error.get_headers() if k.lower() not in ("content-type", "content-length")}
    if status == 404:
        return body(404, f"There is nothing at {request.path}; GET /openapi.json lists what there is.")
    if status == 405:
        return body(405, f"{request.method} is not allowed here; allowed: {headers.get('Allow', 'nothing')}.", headers)
    if status == 413:
        return body(413, f"The body is larger than {request.max_content_length} bytes.")
    return body(status, error.description or TITLES.get(status, "Error"), headers)


def _postgres(error: psycopg.Error) -> Response:
    """What Postgres refuses for reasons of its own: 503 where it may serve the same request later."""
    state = error.sqlstate or ""
    if state not in PASSING and not state.startswith("53"):
        return _fault(error)
    log.get().error("request.unserved", path=request.path, error=str(error), request_id=g.get("request_id"))
    return body(503, "The database can't serve this now.")


def _fault(error: Exception) -> Response:
    request_id = g.get("request_id")
    log.get().error("request.failed", method=request.method, path=request.path, request_id=request_id, exc_info=error)
    return body(500, f"Something went wrong here; the log has it under request id {request_id}.")
