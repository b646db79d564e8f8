"""The account at the end: what every task came to, by the creators' ledger, the audit, the handlers' ledger and the files.

Each check answers the violations it found, in words; an empty list is what the soak is for.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row, namedtuple_row

from pgfleet import housekeeping, volume
from tests.chaos.files import torn
from tests.chaos.work import Ledger, key_of

Row = dict[str, Any]
#: The holder of a task that is made for all nodes, and has parts.
ALL_NODES = "all nodes"
CHORES = {housekeeping.PURGE, housekeeping.SWEEP}
ENDED = ("success", "failure", "crashed", "cancelled")
#: From the audit's point of view: (old, new) status of every change there may be. None: no row.
ARROWS = {
    (None, "fresh"), (None, "waiting"),
    ("waiting", "fresh"), ("waiting", "cancelled"),
    ("fresh", "started"), ("fresh", "cancelled"),
    ("started", "success"), ("started", "failure"), ("started", "waiting"), ("started", "fresh"),
    ("started", "crashed"), ("started", "cancelled"),
    ("failure", "fresh"), ("crashed", "fresh"), ("cancelled", "fresh"),
}  # fmt: skip
#: What is made for a node that has no worker any more crashes there.
ARROWS_OF_PARTS = {("fresh", "crashed"), ("waiting", "crashed")}
#: A run on all nodes while none lives is a failure that says so, its first attempt, and has no parts.
ARROWS_OF_RUNS = {(None, "failure")}
NO_NODE = "No live worker serves"
#: How each kind of work ends where nobody cancels it and no crash limit is reached.
ENDS = {
    "doomed": {"failure"}, "timed": {"failure"}, "stubborn": {"failure"}, "poison": {"crashed"},
    "deaf": {"failure", "success"},  # done before its worker could see to its timeout: that is done
    "steps": {"success", "failure"},  # one in 1000 has no luck
}  # fmt: skip


@dataclass
class Facts:
    """Everything that the checks compare, read once when the fleet has ended."""

    tasks: dict[int, Row]
    audit: dict[int, list[Any]]
    attempts: dict[int, dict[int, str]]
    exports: list[Row]
    workers: list[Row]
    unended: list[str]
    max_crashes: dict[str, int]
    ledger: Ledger
    began: Counter[tuple[int, int]] = field(default_factory=Counter)
    #: nonce -> (task, attempt, process) of every run that came to its end.
    done: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    #: task -> (attempt, ``from`` or ``saved``, step), as they came.
    steps: dict[int, list[tuple[int, str, int]]] = field(default_factory=lambda: defaultdict(list))
    #: worker's id -> the process that registered under it.
    process_of: dict[str, str] = field(default_factory=dict)
    postgres_kills: int = 0
    #: (worker, from, until) of every pause that an operator asked for.
    pauses: list[tuple[str, float, float]] = field(default_factory=list)

    @classmethod
    def read(cls, conn: psycopg.Connection[Any], ledger: Ledger, handlers: Path) -> Facts:
        with conn.cursor(row_factory=dict_row) as cursor:
            tasks = {row["id"]: row for row in cursor.execute("select * from tasks")}
            exports = cursor.execute("select * from exports").fetchall()
            workers = cursor.execute("select * from workers where lost_at is null").fetchall()
        audit: dict[int, list[Any]] = defaultdict(list)
        with conn.cursor(row_factory=namedtuple_row) as cursor:
            for event in cursor.execute("select * from soak.audit order by task_id, seq"):
                audit[event.task_id].append(event)
        attempts: dict[int, dict[int, str]] = defaultdict(dict)
        for task, attempt, status in conn.execute("select task_id, attempt, status from task_attempts"):
            attempts[task][attempt] = status
        unended = [row[0] for row in conn.execute("select id from worker_history where ended_at is null")]
        crashes = dict(conn.execute("select name, max_crashes from task_types").fetchall())
        facts = cls(tasks, audit, attempts, exports, workers, unended, crashes, ledger)
        for line in handlers.read_text(encoding="ascii").splitlines():
            what, task, attempt, process, word = line.split()
            match what:
                case "began":
                    facts.began[int(task), int(attempt)] += 1
                case "done":
                    facts.done[word] = (int(task), int(attempt), process)
                case _:
                    facts.steps[int(task)].append((int(attempt), what, int(word)))
        return facts


def lost(facts: Facts) -> list[str]:
    """Every task whose creation was acknowledged is there, under its key; none was made twice; none is unended."""
    wrong = []
    keys: dict[str, list[int]] = defaultdict(list)
    for id, row in facts.tasks.items():
        if row["parent"] is None and row["schedule"] is None:  # runs: see firing.py
            keys[key_of(row)].append(id)
    for key, id in facts.ledger.ids.items():
        found = keys.get(key, [])
        if len(found) > 1:
            wrong.append(f"{key} became {len(found)} tasks: {found}")
        if id is not None and found != [id]:
            wrong.append(f"{key} was acknowledged as task {id}; there is {found or 'none'}")
    wrong += [
        f"task {id} was answered to a creator and is not there" for id in facts.ledger.unique if id not in facts.tasks
    ]
    wrong += [f"{key} is nobody's: tasks {ids}" for key, ids in keys.items() if key not in facts.ledger.ids]
    wrong += [f"task {id} is still {row['status']}" for id, row in facts.tasks.items() if row["status"] not in ENDED]
    deleted = [id for id, events in facts.audit.items() if any(event.new_status is None for event in events)]
    return wrong + [f"task {id} was deleted" for id in deleted]


def settled(facts: Facts) -> list[str]:
    """By the audit: each attempt starts once and ends once, each task is settled once but for the retries granted."""
    wrong = []
    for id, row in facts.tasks.items():
        events = facts.audit[id]
        if not events or events[0].old_status is not None:
            wrong.append(f"task {id} has no arrival")
            continue
        starts: Counter[int] = Counter()
        ends: Counter[int] = Counter()
        for before, event in zip([None, *events], events, strict=False):
            arrow = event.old_status, event.new_status
            more = ARROWS_OF_PARTS if row["parent"] is not None else ARROWS_OF_RUNS if row["schedule"] else set()
            if arrow not in ARROWS | more:
                wrong.append(f"task {id} went {event.old_status} -> {event.new_status}")
            if before is not None and (event.old_status, event.old_attempt) != (before.new_status, before.new_attempt):
                wrong.append(f"task {id} changed unseen before {event.new_status}")
            started = (event.old_status != "started" and event.new_status == "started") or arrow in ARROWS_OF_RUNS
            if before is not None and event.new_attempt != before.new_attempt + started:
                wrong.append(f"task {id}: attempt {before.new_attempt} -> {event.new_attempt} at {event.new_status}")
            starts[event.new_attempt] += started
            ends[event.new_attempt] += event.old_status == "started" and event.new_status != "started"
        wrong += [f"task {id}: attempt {n} started {count} times" for n, count in starts.items() if count > 1]
        wrong += [f"task {id}: attempt {n} ended {count} times" for n, count in ends.items() if count > 1]
        if sorted(n for n, count in starts.items() if count) != list(range(1, row["attempt"] + 1)):
            wrong.append(f"task {id}: attempts {sorted(starts)} by the audit, {row['attempt']} in its row")
        finals = sum(event.new_status in ENDED and event.old_status not in ENDED for event in events)
        reopened = sum(event.old_status in ENDED and event.new_status not in ENDED for event in events)
        if finals != 1 + reopened or reopened > facts.ledger.retried.get(id, 0):
            wrong.append(f"task {id} was settled {finals} times, and retried {facts.ledger.retried.get(id, 0)} times")
        last = events[-1]
        if (last.new_status, last.new_attempt) != (row["status"], row["attempt"]):
            wrong.append(f"task {id} is {row['status']}, and the audit says {last.new_status}")
    return wrong


def right(facts: Facts) -> list[str]:
    """Each task ended as its kind does, and a success is a run that its handler knows of."""
    wrong = []
    kinds = facts.ledger.kinds
    for id, row in facts.tasks.items():
        if row["worker"] == ALL_NODES or row["type"] in CHORES:
            continue  # see rules.parts(); a soak of hours meets the fleet's own chores
        kind = kinds.get(key_of(row), "?")
        may = set(ENDS.get(kind, {"success"}))
        if not facts.ledger.cancelled.isdisjoint({id, row["parent"]}):
            may.add("cancelled")
        if row["parent"] is not None and (row["error"] or "").startswith(f"Node {row['node']} has no live worker"):
            may.add("crashed")
        if row["schedule"] is not None and (row["error"] or "").startswith(NO_NODE):
            may.add("failure")
        if row["crash_count"] > facts.max_crashes[row["type"]]:
            may = {"crashed", *(may & {"cancelled"})}
        if row["status"] not in may:
            wrong.append(f"task {id} ({kind}) is {row['status']}: {row['error']}")
        if kind == "doomed" and row["status"] == "failure":
            failures = 1 if json.loads(row["data"])["at_once"] else 3
            if row["failure_count"] != failures:
                wrong.append(f"task {id} failed {failures} times and says {row['failure_count']}")
        if row["status"] == "success" and row["type"] != "csv_export":
            result = json.loads(row["result"])
            ran = facts.done.get(result["nonce"])
            if ran != (id, row["attempt"], result["process"]):
                wrong.append(f"task {id}, attempt {row['attempt']}: its result is of {ran}")
            elif facts.process_of.get(row["worker"]) != result["process"]:
                wrong.append(f"task {id} is {row['worker']}'s by its row, and {result['process']} did it")
    return wrong


def history(facts: Facts) -> list[str]:
    """task_attempts holds just the attempts that the audit saw superseded, each ended as the audit says."""
    wrong = []
    for id, row in facts.tasks.items():
        expected: dict[int, str] = {}
        events = facts.audit[id]
        for before, event in zip([None, *events], events, strict=False):
            if event.old_status == "started" and event.new_status != "started" and before is not None:
                expected[event.new_attempt] = _how(before, event)
        if row["status"] in ENDED and events and events[-1].old_status == "started":
            expected.pop(row["attempt"], None)  # the one in the row
        if expected != facts.attempts.get(id, {}):
            wrong.append(f"task {id}: attempts {expected} by the audit, {facts.attempts.get(id, {})} by its history")
    return wrong


def _how(before: Any, event: Any) -> str:
    if event.new_status in ENDED:
        return str(event.new_status)
    if event.crash_count > before.crash_count:
        return "lost"
    return "failure" if event.failure_count > before.failure_count else "released"


def checkpoints(facts: Facts) -> list[str]:
    """No attempt began before a step that an earlier one had saved."""
    wrong = []
    for id, lines in facts.steps.items():
        if id in facts.ledger.retried:  # that begins from nothing
            continue
        for attempt, what, first in lines:
            saved = max((step for other, word, step in lines if word == "saved" and other < attempt), default=0)
            if what == "from" and first < saved:
                wrong.append(f"task {id}, attempt {attempt} began at step {first}; {saved} were saved")
    return wrong


def files(facts: Facts, folder: Path) -> list[str]:
    """Every successful export has its row, its file, its sha256; no file is without a row; nothing half-made is left."""
    wrong = []
    by_task = {row["task_id"]: row for row in facts.exports}
    if len(by_task) != len(facts.exports):
        wrong.append("a task has two exports")
    for id, row in facts.tasks.items():
        if (row["type"] == "csv_export" and row["status"] == "success") != (id in by_task):
            wrong.append(f"task {id} is {row['status']}, exports: {by_task.get(id)}")
    known = set()
    for export in facts.exports:
        known.add(export["filename"])
        problem = torn(folder, export["filename"], export["sha256"], export["bytes"])
        if problem:
            wrong.append(f"task {export['task_id']}: {problem}")
    for path in folder.iterdir():
        if volume.parse_temporary_name(path.name):
            wrong.append(f"a temporary file is left: {path.name}")
        elif volume.is_final_name(path.name) and path.name not in known:
            wrong.append(f"a file without a row is left: {path.name}")
    return wrong


def fleet(facts: Facts) -> list[str]:
    """No worker is left that counts as live, and no run of a handler is left unexplained."""
    wrong = [f"worker {row['id']} still counts as live" for row in facts.workers]
    wrong += [f"worker {id} has no end in worker_history" for id in facts.unended]
    for (id, attempt), count in facts.began.items():
        if id not in facts.tasks:
            wrong.append(f"a handler ran task {id}, which is not there")
        # A claim is not flushed: what a killed Postgres forgets of it is started again, under the same number.
        if count > 1 + facts.postgres_kills:
            wrong.append(f"task {id}, attempt {attempt} was run {count} times")
    return wrong
