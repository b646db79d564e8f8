"""Cron expressions: when they are due next, in a time zone, through its daylight-saving changes.

Five fields (minute, hour, day of month, month, day of week), or six with seconds first, or ``@hourly`` and the like. Names
(``MON``, ``JAN``), ranges, steps, ``L`` (last day; ``5L``: last Friday), ``LW`` and ``MON#2``. The rules are those of Debian's
cron, by the library cronsim: where the clock springs forward, what stands at a fixed time within the missing hour is due
at its end; where it falls back, it is due once. What has a ``*`` for its minute or hour goes by the time that passes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from itertools import takewhile
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from pgfleet.errors import InvalidSchedule

ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
MAX_LENGTH = 200


class _Sim(CronSim):
    """cronsim keeps Debian's daylight-saving rules to five fields; ours are for six as well."""

    def __init__(self, fields: str, start: datetime) -> None:
        super().__init__(fields, start)
        at_fixed_times = not self.parts[1].startswith("*") and not self.parts[2].startswith("*")
        if self.fixup_tz is None and at_fixed_times and self.dt.tzinfo not in (None, UTC):
            self.fixup_tz = self.dt.tzinfo
            self.dt = self.dt.replace(tzinfo=None)

    def advance_hour(self) -> bool:
        """As cronsim's, by quarters: its whole hours stay off the hour, for days, once the clock has moved by half of one."""
        if self.dt.hour in self.hours:
            return False
        self.dt = self.dt.replace(minute=0, second=0)
        while self.dt.hour not in self.hours:
            self.tick(seconds=900)
            if self.dt.hour == 0 and self.dt.minute == 0:
                break  # another day: is it one of those asked for?
        return True


@dataclass(frozen=True)
class Cron:
    """A valid expression in a time zone; make it with :func:`parse`."""

    fields: str
    zone: tzinfo

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The due times later than ``moment``, each later than the one before, in UTC; ends where fifty years hold none."""
        last = moment
        for local in _Sim(self.fields, moment.astimezone(self.zone)):
            due = local.astimezone(UTC)
            if due > last:  # from within a repeated hour the walk begins in its first pass
                yield due
                last = due

    def latest(self, since: datetime, until: datetime, number: int) -> list[datetime]:
        """The last ``number`` due times later than ``since`` and not later than ``until``, in order, in UTC.

        However many there are: finds the last by halves, then looks back from it. (cronsim's walk backwards does not end
        on some days on which the clock springs forward.)
        """
        empty, last = until, since
        while empty - last > timedelta(seconds=1):
            middle = last + (empty - last) / 2
            last, empty = (middle, empty) if self._next_until(middle, until) else (last, middle)
        latest = self._next_until(last, until)
        if latest is None:
            return []
        width = timedelta(seconds=number)
        while True:
            start = max(since, latest - width)
            found = deque(takewhile(lambda due: due <= latest, self.after(start)), maxlen=number)
            if len(found) == number or start == since:
                return list(found)
            width *= 2

    def _next_until(self, moment: datetime, until: datetime) -> datetime | None:
        due = next(self.after(moment), None)
        return due if due is not None and due <= until else None

    def next_after(self, moment: datetime) -> datetime:
        """The first due time later than ``moment``, in UTC. Raises :class:`InvalidSchedule` where fifty years hold none."""
        for due in self.after(moment):
            return due
        raise _never(self.fields)


@lru_cache(maxsize=4096)
def parse(expression: str, time_zone: str = "UTC") -> Cron:
    """Read a cron expression. Raises :class:`~pgfleet.errors.InvalidSchedule`, saying which field is wrong."""
    zone = find_zone(time_zone)
    text = expression.strip()
    fields = ALIASES.get(text.lower(), text)
    if fields.startswith("@"):
        raise InvalidSchedule(
            f'Cron expression "{expression}" is not known.', hint=f"Known are {', '.join(ALIASES)}, and five fields."
        )
    if len(fields) > MAX_LENGTH:
        raise InvalidSchedule(f"A cron expression has at most {MAX_LENGTH} characters, this one has {len(fields)}.")
    cron = Cron(fields, zone)
    try:
        if next(cron.after(datetime(2000, 1, 1, tzinfo=UTC)), None) is None:
            raise _never(expression)
    except CronSimError as error:
        if "day-of-month" in str(error).lower() and _comes_in_another_month(cron):
            raise _never(expression) from None
        raise InvalidSchedule(
            f'Cron expression "{expression}" is not valid: {str(error).lower()}.',
            hint="Write five fields, minute hour day-of-month month day-of-week, or six with seconds first.",
        ) from None
    return cron


@lru_cache(maxsize=1024)
def find_zone(name: str) -> tzinfo:
    """The time zone of that name (``Europe/Stockholm``). Raises :class:`~pgfleet.errors.InvalidSchedule`."""
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidSchedule(
            f'No time zone is called "{name}".', hint="Name it as Europe/Stockholm, or UTC."
        ) from None


def _comes_in_another_month(cron: Cron) -> bool:
    """Is the month all that is wrong: the 31st of February, which cronsim calls a bad day?"""
    fields = cron.fields.split()
    fields[-2] = "*"
    try:
        return next(Cron(" ".join(fields), cron.zone).after(datetime(2000, 1, 1, tzinfo=UTC)), None) is not None
    except CronSimError:
        return False


def _never(expression: str) -> InvalidSchedule:
    return InvalidSchedule(f'Cron expression "{expression}" never comes true.', hint="Look at its day and month.")
