"""Cron expressions: fields, names, aliases, errors, and the days on which clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgfleet import cron
from pgfleet.errors import InvalidSchedule

STOCKHOLM, NEW_YORK = "Europe/Stockholm", "America/New_York"


def due(expression: str, zone: str, start: str, number: int) -> list[str]:
    """The next due times after a moment, in the zone's own time."""
    moments = islice(cron.parse(expression, zone).after(datetime.fromisoformat(start)), number)
    return [moment.astimezone(ZoneInfo(zone)).strftime("%m-%d %H:%M:%S%z")[:-2] for moment in moments]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("*/20 * * * *", ["01-01 00:20:00", "01-01 00:40:00", "01-01 01:00:00"]),
        ("5,10-12 3 * * *", ["01-01 03:05:00", "01-01 03:10:00", "01-01 03:11:00"]),
        ("30 8 * * MON-FRI", ["01-01 08:30:00", "01-02 08:30:00", "01-05 08:30:00"]),
        ("0 0 1 FEB,mar *", ["02-01 00:00:00", "03-01 00:00:00", "02-01 00:00:00"]),
        ("0 0 L * *", ["01-31 00:00:00", "02-28 00:00:00", "03-31 00:00:00"]),
        ("0 0 * * FRI#2", ["01-09 00:00:00", "02-13 00:00:00", "03-13 00:00:00"]),
        ("0 12 13 * FRI", ["01-02 12:00:00", "01-09 12:00:00", "01-13 12:00:00"]),
        ("15 0 12 * * *", ["01-01 12:00:15", "01-02 12:00:15", "01-03 12:00:15"]),
        ("*/20 59 23 * * *", ["01-01 23:59:00", "01-01 23:59:20", "01-01 23:59:40"]),
        ("@hourly", ["01-01 01:00:00", "01-01 02:00:00", "01-01 03:00:00"]),
        ("@daily", ["01-02 00:00:00", "01-03 00:00:00", "01-04 00:00:00"]),
        ("@weekly", ["01-04 00:00:00", "01-11 00:00:00", "01-18 00:00:00"]),
        ("@Monthly", ["02-01 00:00:00", "03-01 00:00:00", "04-01 00:00:00"]),
        ("@yearly", ["01-01 00:00:00", "01-01 00:00:00", "01-01 00:00:00"]),
        ("  0   6 * *  7 ", ["01-04 06:00:00", "01-11 06:00:00", "01-18 06:00:00"]),
    ],
)
def test_an_expression_is_due_when_it_says(expression: str, expected: list[str]) -> None:
    assert due(expression, "UTC", "2026-01-01T00:00:00+00:00", 3) == [f"{moment}+00" for moment in expected]


@pytest.mark.parametrize("expression", ["30 2 * * *", "0 30 2 * * *", "30,45 2 * * *"])
@pytest.mark.parametrize(
    ("zone", "start", "expected"),
    [
        (STOCKHOLM, "2026-03-27T12:00:00+01:00", ["03-28 02:30:00+01", "03-29 03:00:00+02", "03-30 02:30:00+02"]),
        (NEW_YORK, "2026-03-06T12:00:00-05:00", ["03-07 02:30:00-05", "03-08 03:00:00-04", "03-09 02:30:00-04"]),
    ],
)
def test_a_time_that_the_clock_leaps_over_is_due_at_the_end_of_the_leap(
    zone: str, start: str, expected: list[str], expression: str
) -> None:
    moments = [moment for moment in due(expression, zone, start, 5) if ":45:" not in moment]
    assert moments[:3] == expected


@pytest.mark.parametrize("expression", ["30 2 * * *", "0 30 2 * * *"])
def test_a_time_that_comes_twice_in_stockholm_is_due_once(expression: str) -> None:
    nights = ["10-24 02:30:00+02", "10-25 02:30:00+02", "10-26 02:30:00+01"]
    assert due(expression, STOCKHOLM, "2026-10-23T12:00:00+02:00", 3) == nights
    # Asked from within the second pass, through which nothing is due.
    assert due(expression, STOCKHOLM, "2026-10-25T02:10:00+01:00", 1) == nights[2:]
    assert due(expression, STOCKHOLM, "2026-10-25T02:29:59+01:00", 1) == nights[2:]


def test_a_time_that_comes_twice_in_new_york_is_due_once() -> None:
    nights = ["10-31 01:30:00-04", "11-01 01:30:00-04", "11-02 01:30:00-05"]
    assert due("30 1 * * *", NEW_YORK, "2026-10-30T12:00:00-04:00", 3) == nights
    assert due("30 1 * * *", NEW_YORK, "2026-11-01T01:10:00-05:00", 1) == nights[2:]


@pytest.mark.parametrize(
    ("zone", "day"), [(STOCKHOLM, "2026-03-28"), (STOCKHOLM, "2026-10-24"), (NEW_YORK, "2026-11-01")]
)
@pytest.mark.parametrize(("expression", "minutes"), [("0 * * * *", 60), ("*/15 * * * *", 15), ("0 */5 * * * *", 5)])
def test_what_is_due_all_the_time_goes_on_evenly_through_a_change_of_clocks(
    zone: str, day: str, expression: str, minutes: int
) -> None:
    start = datetime.fromisoformat(f"{day}T00:00:00+00:00")
    moments = list(islice(cron.parse(expression, zone).after(start), 48 * 60 // minutes))
    assert moments == [start + n * timedelta(minutes=minutes) for n in range(1, len(moments) + 1)]


def test_hours_begin_on_the_hour_after_a_change_of_clocks_by_half_of_one() -> None:
    # Lord Howe Island springs forward by 30 minutes at 02:00 on 4 October, and falls back at 02:00 on 4 April.
    for day, offset, after in (
        ("2026-10-04", "+10:30", "10-05 00:{}:00+11"),
        ("2026-04-05", "+11:00", "04-06 00:{}:00+10"),
    ):
        moments = due("*/20 0 * * *", "Australia/Lord_Howe", f"{day}T00:40:00{offset}", 3)
        assert moments == [after.format(minute) for minute in ("00", "20", "40")]


def test_midnight_where_the_clock_leaps_over_it_is_due_at_one() -> None:
    # Havana springs forward at midnight.
    assert due("@daily", "America/Havana", "2026-03-07T12:00:00-05:00", 2) == ["03-08 01:00:00-04", "03-09 00:00:00-04"]


def test_a_due_time_is_later_than_the_moment_asked_for_down_to_the_microsecond() -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    c = cron.parse("0 12 * * *")
    assert c.next_after(noon - timedelta(microseconds=1)) == noon
    assert c.next_after(noon) == noon + timedelta(days=1)


@given(
    st.sampled_from(["30 2 * * *", "0 * * * *", "*/7 * * * *", "15 30 1-3 * * *", "0 0 L * *", "5 1,2 * * SUN"]),
    st.sampled_from([STOCKHOLM, NEW_YORK, "UTC", "Australia/Lord_Howe"]),
    st.integers(0, 365 * 24 * 60 - 1),
    st.integers(1, 8),
)
def test_the_latest_due_times_are_those_that_a_walk_ends_with(
    expression: str, zone: str, start: int, number: int
) -> None:
    c = cron.parse(expression, zone)
    since = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=start)
    walked = list(islice(c.after(since), 12))
    assert walked == sorted(set(walked))
    assert walked[0] > since
    assert c.latest(since, walked[-1], number) == walked[-number:]
    assert c.latest(since, walked[-1] - timedelta(seconds=1), 12) == walked[:-1]
    assert c.latest(since, walked[0] - timedelta(seconds=1), 3) == []


def test_the_latest_of_millions_is_found_at_once() -> None:
    c = cron.parse("* * * 1 *", STOCKHOLM)  # every minute of January
    since, until = (datetime.fromisoformat(f"20{year}-11-01T00:00:00+01:00") for year in (16, 26))
    newest = datetime.fromisoformat("2026-01-31T23:59:00+01:00")
    assert c.latest(since, until, 3) == [newest - timedelta(minutes=n) for n in (2, 1, 0)]


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("61 * * * *", "bad minute"),
        ("* 24 * * *", "bad hour"),
        ("60 * * * * *", "bad second"),
        ("* * * * TUESDAY", "bad day-of-week"),
        ("* * 0 * *", "bad day-of-month"),
        ("*/0 * * * *", "bad minute"),
        ("5-1 * * * *", "bad minute"),
        ("* * *", "wrong number of fields"),
        ("* * * * * * *", "wrong number of fields"),
        ("", "wrong number of fields"),
        ("0 0 30 2 *", "never comes true"),
        ("0 0 0 31 4,6 *", "never comes true"),
        ("0 0 32 2 *", "bad day-of-month"),
        ("@reboot", "not known"),
        ("@" + "x" * 300, "not known"),
        ("1," * 200 + "1 * * * *", "at most 200 characters"),
    ],
)
def test_what_is_no_cron_expression_is_refused_in_words(expression: str, words: str) -> None:
    with pytest.raises(InvalidSchedule, match=words):
        cron.parse(expression)


@pytest.mark.parametrize("name", ["Nowhere", "Europe", "../../etc/passwd", "/etc/passwd", "", "CEST"])
def test_what_is_no_time_zone_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidSchedule, match=f'No time zone is called "{name}"'):
        cron.parse("@daily", name)
