"""The soak's figures, and how they are shown."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.chaos import firing
from tests.chaos.account import Facts

if TYPE_CHECKING:
    from tests.chaos.__main__ import Soak

#: Violations shown of each sort; all of them are in the JSON.
SHOWN = 10


def figures(soak: Soak, facts: Facts, fired: firing.Firing, drained: float | None) -> dict[str, Any]:
    """Everything that is reported, ready for JSON."""
    stops = [p.ended - p.told for p in soak.fleet.all if p.told and p.ended and not p.killed]
    events = [event for of_task in facts.audit.values() for event in of_task]
    return {
        "ok": not any(soak.wrong.values()),
        "seed": soak.seed,
        "minutes": soak.options.minutes,
        "settings": {"workers": soak.options.workers, "rate": soak.options.rate, **soak.settings},
        "tasks": {
            "created": len(facts.tasks),
            "answers lost": soak.ledger.lost_answers,
            "by status": dict(Counter(row["status"] for row in facts.tasks.values())),
            "by kind": dict(Counter(soak.ledger.kinds.values())),
            "attempts": sum(row["attempt"] for row in facts.tasks.values()),
            "exports": len(facts.exports),
        },
        "runs of schedules": {name: len(runs) for name, runs in fired.runs.items()},
        "due times skipped": {name: row["skipped"] for name, row in fired.rows.items() if row["skipped"]},
        "events": dict(Counter(soak.events.fates.values())),
        "firing stopped": {"times": len(soak.stopper.stops), "watched": soak.stopper.watched},
        "stop of firing": _spread(soak.stopper.answered),
        "firing after due time": _spread(firing.lateness(fired, [*soak.stage.outages, *soak.stopper.stops])),
        "mishaps": dict(soak.mishaps.counts),
        "worker processes": len(soak.fleet.all),
        "killed by their own task": soak.fleet.poisoned,
        "drained by an operator": soak.fleet.drained,
        "postgres away": [round(end - start, 2) for start, end in soak.stage.outages],
        "workers whose settles waited": sum(bool(p.events("settle.waiting")) for p in soak.fleet.all),
        "rescues": sum(
            e.old_status == "started" and e.crash_count > b.crash_count
            for of_task in facts.audit.values()
            for b, e in itertools.pairwise(of_task)
        ),
        "rescue after kill": _spread(_rescues(soak, facts, whole=False)),
        "rescue after crash": _spread(_rescues(soak, facts, whole=True)),
        "that with Postgres up": _spread(_rescues(soak, facts, whole=True, calm=True)),
        "stop on SIGTERM": _spread(stops),
        "attempts run twice": sum(count > 1 for count in facts.began.values()),
        "files swept": soak.swept,
        "drained in": drained and round(drained, 1),
        "changes seen": len(events),
        "violations": soak.wrong,
    }


def _rescues(soak: Soak, facts: Facts, *, whole: bool, calm: bool = False) -> list[float]:
    """Seconds from a SIGKILL to the rescue of each task that the killed worker held.

    ``whole``: its keeper was killed with it, and the lease had to lapse. ``calm``: only where Postgres was up meanwhile.
    """
    killed = {w: p.killed for p in soak.mishaps.kills if p.whole is whole for w in p.workers()}
    found = []
    for events in facts.audit.values():
        for before, event in itertools.pairwise(events):
            at = killed.get(event.old_worker)
            if at is None or event.old_status != "started" or event.crash_count == before.crash_count:
                continue
            now = event.at.timestamp()
            # An id of that process may have been lost before the kill.
            if now >= at and not (calm and any(start < now and end > at for start, end in soak.stage.outages)):
                found.append(now - at)
    return found


def _spread(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {"n": 0}
    seconds = sorted(seconds)
    return {
        "n": len(seconds),
        "p50": round(statistics.median(seconds), 3),
        "p99": round(seconds[len(seconds) * 99 // 100], 3),
        "max": round(seconds[-1], 3),
    }


def show(found: dict[str, Any]) -> None:
    """Print the summary."""
    for name, value in found.items():
        if name in ("violations", "ok", "settings"):
            continue
        shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        print(f"{name:>30}  {shown}")
    for name, wrong in found["violations"].items():
        print(f"{name:>30}  {len(wrong)}")
        for line in wrong[:SHOWN]:
            print(f"{'':>30}    {line}")
    print(f"{'':>30}  {'ok' if found['ok'] else 'FAILED'}")
