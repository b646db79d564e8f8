"""Times and lengths of time, as they are given on a command line."""

from __future__ import annotations

from datetime import datetime, timedelta

import click

from pgfleet.settings import duration


def moment(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    """A time in ISO 8601; without an offset it is the local time."""
    try:
        return None if value is None else datetime.fromisoformat(value).astimezone()
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{value!r} is no time: expected one such as 2026-01-31T08:00:00+01:00.") from None


def length(ctx: click.Context, param: click.Parameter, value: str | None) -> timedelta | None:
    """``90s``, ``15m``, ``1h``, ``30d``, or bare seconds."""
    try:
        return None if value is None else timedelta(seconds=duration(value))
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: expected {error}.") from None


def lengths(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> list[timedelta]:
    """:func:`length`, for an option that may be given again."""
    return [given for one in value if (given := length(ctx, param, one)) is not None]


def moments(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> list[datetime]:
    """:func:`moment`, likewise."""
    return [given for one in value if (given := moment(ctx, param, one)) is not None]
