"""From the wire to a model and back: bodies, parameters, ids; and the response."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, get_origin

from flask import Response, request
from pydantic import BaseModel, ValidationError
from werkzeug.datastructures import Headers
from werkzeug.exceptions import RequestEntityTooLarge

from pgfleet.tasks import MAX_BIGINT
from pgfleet_api.errors import Refused
from pgfleet_api.fields import storable
from pgfleet_api.state import state

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

M = TypeVar("M", bound=BaseModel)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not part of JSON")


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, none of whose names is given twice: what it means would be each reader's own choice."""
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = next(name for name in value if sum(name == given for given, _ in pairs) > 1)
        raise ValueError(f"the name {twice[:100]!r} is given twice")
    return value


# Made once: json.loads and json.dumps make theirs anew at each call with arguments.
_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=once)
_ENCODER = json.JSONEncoder(default=vars)


def body(model: type[M]) -> M:
    """The request's JSON body. 415 for another content type, 413 too large, 400 broken JSON, 422 wrong content."""
    value = json_body()
    if not isinstance(value, dict):
        raise Refused(422, f"The body must be a JSON object, this is {_kind(value)}.")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise Refused(422, _explain(error, model)) from None


def json_body() -> Any:
    """The request's JSON body, whatever it holds; refused as :func:`body` does."""
    _require_json()
    return _decoded(_read())


def json_body_or_nothing() -> Any:
    """As :func:`json_body`; None where there is no body, whatever its type is said to be."""
    raw = _read()
    if not raw:
        return None
    _require_json()
    return _decoded(raw)


def _require_json() -> None:
    kind = request.mimetype
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise Refused(415, f"The body must be application/json, not {kind or 'without a Content-Type'}.")


def _decoded(raw: bytes) -> Any:
    try:
        return _DECODER.decode(raw.decode())
    except UnicodeDecodeError as error:
        raise Refused(400, f"The body is not UTF-8: {error.reason} at byte {error.start}.") from None
    except RecursionError:
        raise Refused(400, "The body is nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise Refused(400, f"The body is no JSON: {error}.") from None
    except ValueError as error:
        # Python's own words for an integer of more digits than it converts are about Python.
        reason = "a number has too many digits" if "int_max_str_digits" in str(error) else error
        raise Refused(400, f"The body is not taken: {reason}.") from None


def _read() -> bytes:
    """The body's bytes, as they were sent. Werkzeug refuses one that says it is too large; of one that doesn't say
    (chunked), it would give us the beginning and no error. Of one that ends early our server does likewise."""
    coding = request.environ.get("HTTP_CONTENT_ENCODING", "identity")
    if coding.lower() != "identity":
        raise Refused(
            415,
            f"A body with Content-Encoding {coding[:100]!r} is not taken; send it as it is.",
            {"Accept-Encoding": "identity"},
        )
    with state().bodies:
        raw = _received()
    if len(raw) < (said := request.content_length or 0):
        raise Refused(400, f"The body ended after {len(raw)} of the {said} bytes that Content-Length says.")
    return raw


def _received() -> bytes:
    if request.content_length is not None or not request.environ.get("wsgi.input_terminated"):
        return request.get_data(cache=False)
    limit = request.max_content_length or 0
    pieces, size = [], 0
    while piece := request.environ["wsgi.input"].read(min(65_536, limit + 1 - size)):
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise RequestEntityTooLarge
    return b"".join(pieces)


def query(model: type[M]) -> M:
    """The request's query parameters; 400 for wrong, unknown or repeated ones."""
    values: dict[str, Any] = {}
    for name, given in request.args.lists():
        field = model.model_fields.get(name)
        if field is not None and get_origin(field.annotation) is list:
            values[name] = given
        elif len(given) > 1:
            raise Refused(400, f"Parameter {name} is given {len(given)} times; once is enough.")
        else:
            values[name] = given[0]
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise Refused(400, _explain(error, model)) from None


def task_id(text: str) -> int:
    """An id from the URL; 400 where it is no bigint."""
    if not re.fullmatch(r"-?[0-9]{1,19}", text) or not -MAX_BIGINT - 1 <= int(text) <= MAX_BIGINT:
        raise Refused(400, f"A task's ID is a whole number up to {MAX_BIGINT}, {text[:50]!r} is not.")
    return int(text)


def worker_id(text: str) -> str:
    """A worker's id from the URL; 400 where it is none that could be stored."""
    try:
        return storable(text)
    except ValueError as error:
        raise Refused(400, f"The worker's ID: {error}.") from None


class _Answer(Response):
    """A response whose headers are whole as they are: its body is there and its status allows one, its URLs are ASCII.

    Werkzeug would copy them and parse what Location holds: 25 us of the 430 that creating a task takes.
    """

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:
        return self.headers


def answer(value: BaseModel | list[Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The response that holds ``value``. Dumped as it is: response models hold what JSON has (see models.py).

    ``status`` is one that has a body; URLs in ``headers`` are ASCII.
    """
    return _Answer(_ENCODER.encode(value), status, headers, mimetype="application/json")


def _kind(value: Any) -> str:
    names = {list: "an array", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One sentence for each thing wrong, naming its field."""
    said = []
    for item in error.errors(include_url=False):
        name = ".".join(str(part) for part in item["loc"]) or "A field's name"
        given = item["input"]
        if item["type"] == "extra_forbidden":
            known = f"; known are {', '.join(model.model_fields)}" if len(item["loc"]) == 1 else ""
            said.append(f"Unknown field {name[:100]!r}{known}.")
        elif item["type"] == "missing":
            said.append(f"{name} is missing.")
        elif item["type"] in ("too_long", "string_too_long") and isinstance(given, str):
            said.append(f"{name}: it has {len(given)} characters; at most {item['ctx']['max_length']} are taken.")
        elif item["type"] in ("too_short", "string_too_short") and isinstance(given, str):
            said.append(f"{name}: it has {len(given)} characters; it must have {item['ctx']['min_length']} or more.")
        else:
            said.append(f"{name}: {item['msg'].removeprefix('Value error, ')}.")
    return " ".join(said)
