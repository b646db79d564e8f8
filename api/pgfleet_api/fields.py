"""The kinds of fields that models are made of, with what each refuses."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

#: Ten years, in seconds: as far ahead as a task may be put off.
MAX_DELAY = 315_360_000
#: A year, in seconds: the longest first pause between retries, as the table's own check has it.
MAX_RETRY_DELAY = 31_536_000
#: A year, in seconds: the longest timeout.
MAX_TIMEOUT = 31_536_000

_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.,]\d{1,9})?)?(Z|z|[+-]\d\d(:?\d\d)?)", re.ASCII)


def storable(text: str) -> str:
    """``text``, if Postgres can store it; :class:`ValueError` for NUL characters and lone surrogates."""
    if "\x00" in text:
        raise ValueError("it holds a NUL character (\\u0000), which Postgres can't store")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half a surrogate pair, which is no character") from None
    return text


def _moment(value: object) -> object:
    """An ISO 8601 time with offset. Pydantic alone would take numbers and times without offset as well."""
    if not isinstance(value, str) or not _DATE_TIME.fullmatch(value):
        raise ValueError("expected an ISO 8601 time with offset, such as 2026-01-31T09:30:00+01:00")
    try:
        moment = datetime.fromisoformat(value.upper())
        moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("there is no such time") from None
    return moment


Text = Annotated[str, AfterValidator(storable)]
Moment = Annotated[datetime, BeforeValidator(_moment, json_schema_input_type=datetime)]
#: A time in a response, written out.
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Status = Literal["waiting", "fresh", "started", "success", "failure", "crashed", "cancelled"]


def names(value: object) -> object:
    """A filter that may be repeated, comma-separated, or both."""
    assert isinstance(value, list)  # noqa: S101 - incoming.query gives lists to fields that are lists
    return [name for part in value for name in part.split(",") if name]


Names = Annotated[list[Text], BeforeValidator(names)]
