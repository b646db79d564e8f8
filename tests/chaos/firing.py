"""The account of firing: what every due time and every event came to.

What was to happen is known by the soak's own arithmetic and by what the emitters wrote down; what did happen by the tasks
and their audit. Each check answers the violations it found, in words.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tests.chaos.account import ENDED, Facts, Row
from tests.chaos.clocks import Clock

#: A run that an operator retried counts as unfinished from so long after: whoever fired at that moment didn't see it yet.
UNSEEN = timedelta(seconds=2)


@dataclass
class Firing:
    """Everything about schedules that the checks compare, read when nothing fires any more."""

    clocks: list[Clock]
    facts: Facts
    #: When firing was stopped at the end: what came due before `until` has been fired.
    until: datetime
    rows: dict[str, Row]
    #: Of each schedule its trigger, and its runs by id.
    triggers: dict[str, Row]
    unaccounted: int
    held: int
    runs: dict[str, list[Row]] = field(default_factory=dict)

    @classmethod
    def read(cls, conn: psycopg.Connection[Any], clocks: list[Clock], facts: Facts, until: datetime) -> Firing:
        with conn.cursor(row_factory=dict_row) as cursor:
            rows = {row["name"]: row for row in cursor.execute("select * from schedules")}
            triggers = {row["schedule"]: row for row in cursor.execute("select * from triggers")}
            left = cursor.execute(
                "select (select count(*) from run_ends) as unaccounted, (select count(*) from held_events) as held"
            ).fetchone()
        assert left is not None
        found = cls(clocks, facts, until, rows, triggers, left["unaccounted"], left["held"])
        found.runs = {clock.name: [] for clock in clocks}
        for _, task in sorted(facts.tasks.items()):
            if task["schedule"] is not None:
                found.runs.setdefault(task["schedule"], []).append(task)
        return found

    def arrival(self, run: Row) -> Any:
        """The audit of the run's making."""
        return self.facts.audit[run["id"]][0]


def due_times(firing: Firing) -> list[str]:
    """Each due time has its run, or was skipped as the rules of its schedule say; none has two, none came too early."""
    wrong = [f"{name} is no schedule of the soak's" for name in firing.runs if name not in firing.rows]
    for clock in firing.clocks:
        if clock.trigger.event is None:
            wrong += [f"{clock.name}: {problem}" for problem in _due_times(firing, clock)]
    return wrong


def _due_times(firing: Firing, clock: Clock) -> list[str]:
    row, trigger, runs = (group[clock.name] for group in (firing.rows, firing.triggers, firing.runs))
    times = [run["due_at"] for run in runs]
    wrong = [f"due time {due} has {count} runs" for due, count in Counter(times).items() if count > 1]
    wrong += [
        f"task {run['id']} was made before it was due"
        for run in runs if run["due_at"] is None or firing.arrival(run).at < run["due_at"]
    ]  # fmt: skip
    if trigger["problem"] is not None:
        wrong.append(f"can't be fired: {trigger['problem']}")
    if clock.trigger.kind == "once":
        if times != [clock.first] or trigger["due_at"] is not None or trigger["done_at"] is None:
            wrong.append(f"was due once, at {clock.first}, and has runs for {times}; done at {trigger['done_at']}")
    elif not clock.regular:
        wrong += _pauses(firing, clock)
    elif trigger["due_at"] is None or trigger["due_at"] <= firing.until:
        wrong.append(f"was not fired on: it is {firing.until}, and it is due at {trigger['due_at']}")
    else:
        series = list(clock.series(trigger["due_at"]))
        known = set(series)
        wrong += [f"was never due at {due}" for due in sorted({*times, *row["owed"]} - known)]
        if clock.all_of_them:
            wrong += [f"due time {due} is lost" for due in sorted(known - set(times))]
            wrong += [f"{row['skipped']} due times are said to be skipped"] * bool(row["skipped"])
        elif len(times) + len(row["owed"]) + row["skipped"] != len(series):
            wrong.append(
                f"{len(series)} due times: {len(times)} runs, {len(row['owed'])} owed, {row['skipped']} skipped"
            )
    return wrong


def _pauses(firing: Firing, clock: Clock) -> list[str]:
    """Each run was due so long after the end of one before it, and the next one is."""
    assert clock.trigger.every is not None
    runs = firing.runs[clock.name]
    ends = {event.began for run in runs for event in _ends(firing, run)}
    wrong = [
        f"task {run['id']} was due at {run['due_at']}, which is no run's end and {clock.trigger.every}"
        for run in runs[1:]
        if run["due_at"] - clock.trigger.every not in ends
    ]
    if not runs or runs[0]["due_at"] != clock.first:
        wrong.append(f"was first due at {clock.first}, and has {len(runs)} runs")
    next_due = firing.triggers[clock.name]["due_at"]
    if next_due is None or next_due - clock.trigger.every not in ends:
        wrong.append(f"is due next at {next_due}, which is no run's end and {clock.trigger.every}")
    return wrong


def _ends(firing: Firing, run: Row) -> list[Any]:
    return [
        event for event in firing.facts.audit[run["id"]]
        if event.new_status in ENDED and event.new_status != event.old_status
    ]  # fmt: skip


def overlap(firing: Firing) -> list[str]:
    """Where runs may not overlap, each was made when no other of its schedule was unfinished."""
    wrong = []
    for clock in firing.clocks:
        if clock.schedule.overlap == "allow" or clock.trigger.event is not None:
            continue
        made = [(firing.arrival(run).at, run["id"]) for run in firing.runs[clock.name]]
        made.sort()
        for run in firing.runs[clock.name]:
            for since, until in _unfinished(firing.facts.audit[run["id"]]):
                for at, other in made[bisect_left(made, (since, 0)) :]:
                    if at >= until:
                        break
                    if other != run["id"]:
                        wrong.append(f"{clock.name}: task {other} was made while {run['id']} was unfinished")
    return wrong


def _unfinished(events: Iterable[Any]) -> Iterable[tuple[datetime, datetime]]:
    since = None
    for event in events:
        if event.old_status is None:
            since = event.at
        elif event.old_status in ENDED and event.new_status not in ENDED:
            since = event.at + UNSEEN
        elif event.new_status in ENDED and since is not None:
            yield since, event.at


def events(firing: Firing, emitted: Mapping[int, str]) -> list[str]:
    """Each event that was committed made one run, with its payload, which its handler saw; one rolled back made none."""
    wrong = [f"{firing.held} events are still held"] * bool(firing.held)
    for clock in firing.clocks:
        if clock.trigger.event is None:
            continue
        made: Counter[int] = Counter()
        for run in firing.runs[clock.name]:
            data = json.loads(run["data"])
            event = data.pop("event")
            serial = event["payload"]["serial"]
            made[serial] += 1
            if event != {"name": clock.trigger.event, "payload": {"serial": serial}} or data != clock.schedule.data:
                wrong.append(f"task {run['id']} has the data {run['data']}")
            if run["status"] == "success" and json.loads(run["result"])["serial"] != serial:
                wrong.append(f"task {run['id']} is of event {serial}, and its handler saw {run['result']}")
            if run["due_at"] is not None:
                wrong.append(f"task {run['id']} is of an event, and was due at {run['due_at']}")
        for serial, fate in emitted.items():
            may = {"committed": {1}, "rolled back": {0}, "unknown": {0, 1}}[fate]
            if made[serial] not in may:
                wrong.append(f"event {serial} was {fate}, and {clock.name} has {made[serial]} runs of it")
        wrong += [f"{clock.name} has a run of event {serial}, which nobody emitted" for serial in made.keys() - emitted]
    return wrong


def numbers(firing: Firing) -> list[str]:
    """What a schedule says of its runs is what the audit saw of them."""
    wrong = [f"{firing.unaccounted} ends of runs are not accounted for"] * bool(firing.unaccounted)
    for name, row in firing.rows.items():
        runs = firing.runs.get(name, [])
        ends = Counter(event.new_status for run in runs for event in _ends(firing, run))
        counted = ends["success"], ends["failure"] + ends["crashed"]
        if (row["successes"], row["failures"]) != counted:
            wrong.append(
                f"{name}: {row['successes']} successes, {row['failures']} failures; {counted} were seen to end so"
            )
        last = (runs[-1]["id"], runs[-1]["status"]) if runs else (None, None)
        if (row["last_task"], row["last_status"]) != last:
            wrong.append(f"{name}: its last run is said to be {row['last_task']}, {row['last_status']}; it is {last}")
    return wrong


def lateness(firing: Firing, away: Iterable[tuple[float, float]]) -> list[float]:
    """Seconds from each due time to its run's making, of what runs whatever happens; none that met a time ``away``."""
    spans = list(away)
    found = []
    for clock in firing.clocks:
        if clock.all_of_them:
            for run in firing.runs[clock.name]:
                due, at = run["due_at"].timestamp(), firing.arrival(run).at.timestamp()
                if not any(start < at and end > due for start, end in spans):
                    found.append(at - due)
    return found
