"""The OpenAPI 3.1 document, made from the views' declarations and models; and the page that shows it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from types import UnionType
from typing import Any, Literal, TypeVar

from flask import Blueprint, Flask, Response, current_app, jsonify
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

from pgfleet import __version__
from pgfleet_api import cluster_models, models, schedule_models, trigger_models
from pgfleet_api.errors import TITLES

V = TypeVar("V", bound=Callable[..., Any])

blueprint = Blueprint("openapi", __name__)

_REF = "#/components/schemas/{model}"


def documented(
    summary: str,
    description: str = "",
    *,
    body: Any = None,
    query: type[BaseModel] | None = None,
    answers: Mapping[int, Any],
    errors: tuple[int, ...] = (),
) -> Callable[[V], V]:
    """Declare what a view takes and gives: ``answers`` by status (None: no content), ``errors`` that not all have."""

    def declare(view: V) -> V:
        view.operation = {  # type: ignore[attr-defined] # read by `document`
            "summary": summary,
            "description": description,
            "body": body,
            "query": query,
            "answers": answers,
            "errors": errors,
            "who": getattr(view, "who", None),
        }
        return view

    return declare


@blueprint.get("/openapi.json")
@documented("This document", answers={200: dict[str, Any]})
def document() -> Response:
    return jsonify(describe(current_app))


@blueprint.get("/docs")
def docs() -> Response:
    page, policy = _page()
    headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
    return Response(page, mimetype="text/html", headers=headers)


@cache
def _page() -> tuple[str, str]:
    """The page, and the policy that lets nothing but its own script and style run (by hash) and nothing be fetched
    but the document."""
    page = (files("pgfleet_api") / "docs.html").read_text(encoding="utf-8")

    def hashed(tag: str) -> str:
        found = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert found is not None  # noqa: S101 - the page is ours
        return "'sha256-" + base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode() + "'"

    policy = {
        "default-src": "'none'",
        "script-src": hashed("script"),
        "style-src": hashed("style"),
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return page, "; ".join(f"{name} {value}" for name, value in policy.items())


def describe(app: Flask) -> dict[str, Any]:
    """The OpenAPI 3.1 document of every documented view of ``app``."""
    paths: dict[str, dict[str, Any]] = {}
    for rule in app.url_map.iter_rules():
        operation = getattr(app.view_functions[rule.endpoint], "operation", None)
        if operation is None:
            continue
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            paths.setdefault(path, {})[method.lower()] = _operation(rule.endpoint, path, operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pgfleet",
            "version": __version__,
            "description": "Ask for work, poll it, download what it made. "
            "Times are ISO 8601 with offset, durations are seconds; see api/README.md.",
        },
        "servers": [{"url": "."}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _operation(endpoint: str, path: str, operation: Mapping[str, Any]) -> dict[str, Any]:
    who = operation["who"]
    errors = {*operation["errors"], *((401, 503) if who else ())}
    described: dict[str, Any] = {
        "operationId": endpoint.replace(".", "_"),
        "tags": [endpoint.partition(".")[0]],
        "summary": operation["summary"],
        "description": (operation["description"] + (" Admins only." if who == "admin" else "")).strip(),
        "security": [{"bearer": []}] if who else [],
        "parameters": [*_path_parameters(path), *_query_parameters(operation["query"])],
        "responses": {
            **{str(status): _response(status, models.Error) for status in sorted(errors)},
            **{str(status): _response(status, answer) for status, answer in operation["answers"].items()},
        },
    }
    if operation["body"] is not None:
        described["requestBody"] = {"required": operation["body"] is not Any, "content": _json(operation["body"])}
    return described


def _path_parameters(path: str) -> list[dict[str, Any]]:
    number = {"type": "integer", "format": "int64"}
    schemas: dict[str, Any] = {"id": number if path.startswith("/v1/tasks/") else {"type": "string"}}
    return [
        {"name": name, "in": "path", "required": True, "schema": schemas.get(name, {"type": "string"})}
        for name in re.findall(r"{(\w+)}", path)
    ]


def _query_parameters(model: type[BaseModel] | None) -> list[dict[str, Any]]:
    if model is None:
        return []
    properties = model.model_json_schema(ref_template=_REF)["properties"]
    return [
        {"name": name, "in": "query", "description": schema.pop("description", ""), "schema": schema}
        for name, schema in properties.items()
    ]


def _response(status: int, answer: Any) -> dict[str, Any]:
    response: dict[str, Any] = {"description": TITLES.get(status) or SUCCESSES[status]}
    if answer is bytes:
        response["content"] = {"text/csv": {"schema": {"type": "string"}}}
    elif answer is str:
        response["content"] = {"text/plain": {"schema": {"type": "string"}}}
    elif answer is not None:
        response["content"] = _json(answer)
    return response


SUCCESSES = {200: "OK", 201: "Created", 202: "Accepted", 204: "No content", 206: "Partial content", 304: "Not modified"}


def _json(answer: Any) -> dict[str, Any]:
    if isinstance(answer, UnionType):
        schema: dict[str, Any] = {"anyOf": [{"$ref": _REF.format(model=m.__name__)} for m in answer.__args__]}
    elif isinstance(answer, type) and issubclass(answer, BaseModel):
        schema = {"$ref": _REF.format(model=answer.__name__)}
    else:
        schema = TypeAdapter(answer).json_schema(ref_template=_REF)
        schema.pop("$defs", None)
    return {"application/json": {"schema": schema}}


@cache
def _schemas() -> dict[str, Any]:
    requests: list[type[BaseModel]] = [models.NewTask, schedule_models.NewSchedule, schedule_models.NewFiring]
    responses: list[type[BaseModel]] = [
        models.TaskCreated,
        models.CancelRequested,
        models.Task,
        models.TaskForAdmin,
        models.TaskPage,
        models.Execution,
        models.ExecutionForAdmin,
        models.ExecutionPage,
        models.Worker,
        schedule_models.Schedule,
        schedule_models.SchedulePage,
        schedule_models.Emitted,
        schedule_models.Firing,
        schedule_models.FiringChanged,
        trigger_models.BackgroundTasks,
        trigger_models.Triggered,
        trigger_models.Refusal,
        cluster_models.Item,
        cluster_models.ItemPage,
        models.File,
        models.Message,
        models.Error,
    ]
    both: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = [
        *((model, "validation") for model in requests),
        *((model, "serialization") for model in responses),
    ]
    _, definitions = models_json_schema(both, ref_template=_REF)
    return dict(definitions["$defs"])
