"""What a new task's ``data`` may hold: as text for the row, and by type, before a worker meets it."""

from __future__ import annotations

import json
from typing import Any

from pgfleet.tasks import MAX_BIGINT
from pgfleet.tokens import User
from pgfleet_api.errors import Refused
from pgfleet_api.fields import storable
from pgfleet_api.messages import once

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def check(type: str, data: Any, user: User) -> str | None:
    """``data`` as it is stored. 422 for what can't be stored or is no payload of ``type``, 403 for another's books."""
    text = stored(data)
    if type == "csv_export" and data is not None:
        _check_export(_parsed(data) if isinstance(data, str) else data, user)
    return text


def stored(data: Any, what: str = "data") -> str | None:
    """``data`` as text for the row; 422, which calls it ``what``, for what Postgres can't store."""
    if data is None:
        return None
    try:
        if isinstance(data, str):
            return storable(data)
        text = storable(_ENCODER.encode(data))
        if "\\u0000" in text:
            # Fine as text, but no jsonb can hold it: it would break at whoever reads it.
            _storable_throughout(data)
        return text
    except RecursionError:
        raise Refused(422, f"{what}: it is nested too deeply.") from None
    except ValueError as error:
        # JSON has no word for an infinite number, which is what one becomes that is too large.
        reason = "it holds a number that is too large" if "JSON compliant" in str(error) else error
        raise Refused(422, f"{what}: {reason}.") from None


def _storable_throughout(value: Any) -> None:
    if isinstance(value, str):
        storable(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            storable(key)
            _storable_throughout(item)
    elif isinstance(value, list):
        for item in value:
            _storable_throughout(item)


def _parsed(text: str) -> Any:
    """What the worker will read in ``text``."""
    try:
        return json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise Refused(422, f"data: a csv_export takes a JSON object: {error}.") from None


def _check_export(payload: Any, user: User) -> None:
    """An export may name whose books it is of; unless an admin asks, they are the caller's own."""
    if not isinstance(payload, dict):
        raise Refused(422, 'data: a csv_export takes a JSON object, such as {"owner_id": 1}.')
    if "owner_id" not in payload:
        return
    owner = payload["owner_id"]
    if not isinstance(owner, int) or isinstance(owner, bool) or not 1 <= owner <= MAX_BIGINT:
        raise Refused(422, "data: owner_id must be a user's id, a whole number from 1.")
    if owner != user.id and not user.is_admin:
        raise Refused(403, "Only an admin may export somebody else's books: owner_id must be your own id, or absent.")
