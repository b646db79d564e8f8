"""What the trigger API's requests and responses hold; see TRIGGER_API.md."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from pgfleet_api.models import Model


class Params(Model):
    """How the request fared."""

    resmsgid: None
    msgid: Annotated[str, Field(description="The request's id, as in X-Request-ID.")]
    err: Annotated[str | None, Field(description="Why it failed, in a word.", examples=["JOB_ALREADY_RUNNING"])]
    status: Literal["success", "failure"]
    errmsg: Annotated[str | None, Field(description="Why it failed, for a person.")]


class Envelope(Model):
    """What every response has."""

    id: Annotated[str, Field(examples=["api.backgroundtasks.read"])]
    ver: Literal["v1"]
    ts: Annotated[str, Field(description="yyyy-MM-dd HH:mm:ss:SSSZ", examples=["2018-11-27 14:45:34:869+0530"])]
    params: Params
    responseCode: Literal["OK", "CLIENT_ERROR", "UNAUTHORIZED", "RESOURCE_NOT_FOUND", "SERVER_ERROR"]


class BackgroundTask(Model):
    """A schedule of the live registry."""

    taskGroup: str
    taskName: str
    description: str


class Read(Model):
    """What a read gives."""

    response: list[BackgroundTask]


class BackgroundTasks(Envelope):
    """The live registry."""

    result: Read


class Started(Model):
    """What a trigger gives."""

    response: Literal["SUCCESS"]


class Triggered(Envelope):
    """A run has begun, or waits for its turn."""

    result: Started


class Refusal(Envelope):
    """Why the request was not served."""

    result: dict[str, Any]
