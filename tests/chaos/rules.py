"""The account of what holds between tasks: limits, placement, operators' orders, parts of a whole. As account.py's checks."""

from __future__ import annotations

from collections import defaultdict

from tests.chaos.account import ALL_NODES, NO_NODE, Facts, Row
from tests.chaos.handlers import LIMIT


def parts(facts: Facts) -> list[str]:
    """What is made for all nodes has a part for each, and ends as its parts did."""
    wrong = []
    made: dict[int, list[Row]] = defaultdict(list)
    for row in facts.tasks.values():
        if row["parent"] is not None:
            made[row["parent"]].append(row)
    for id, row in facts.tasks.items():
        nowhere = row["schedule"] is not None and (row["error"] or "").startswith(NO_NODE)
        if (row["worker"] == ALL_NODES and not nowhere) != (id in made):
            wrong.append(f"task {id} of {row['worker']} has {len(made.get(id, []))} parts")
            continue
        ends = {part["status"] for part in made.get(id, [])}
        whole = "failure" if ends & {"failure", "crashed"} else "cancelled" if "cancelled" in ends else "success"
        if ends and row["status"] != whole:
            wrong.append(f"task {id} is {row['status']}, and its parts are {sorted(ends)}")
        if len({part["node"] for part in made.get(id, [])}) != len(made.get(id, [])):
            wrong.append(f"task {id} has two parts for one node")
    return wrong


def limits(facts: Facts) -> list[str]:
    """Never more soak_limited tasks at once than its type allows, by the order in which the changes were made."""
    running: set[int] = set()
    most = 0
    events = [event for of_task in facts.audit.values() for event in of_task if event.type == "soak_limited"]
    for event in sorted(events, key=lambda event: event.at):
        if event.new_status == "started":
            running.add(event.task_id)
        else:
            running.discard(event.task_id)
        most = max(most, len(running))
    return [f"{most} limited tasks ran at once, and {LIMIT} may"] if most > LIMIT else []


def orders(facts: Facts) -> list[str]:
    """A worker that was told to pause took nothing, from a second later on until it was told to go on."""
    taken: dict[str, list[float]] = defaultdict(list)
    for events in facts.audit.values():
        for event in events:
            if event.new_status == "started" and event.old_status != "started":
                taken[event.new_worker].append(event.at.timestamp())
    return [
        f"{worker} took a task {at - began:.1f} s after it was told to pause"
        for worker, began, until in facts.pauses
        for at in taken[worker]
        if began + 1 < at < until
    ]


def placement(facts: Facts) -> list[str]:
    """A task that names a node was only ever taken there."""
    wrong = []
    for id, row in facts.tasks.items():
        if row["node"] is not None:
            takers = {facts.process_of.get(e.new_worker, "?") for e in facts.audit[id] if e.new_status == "started"}
            if any(f"node-{process.partition('-')[0]}" != row["node"] for process in takers):
                wrong.append(f"task {id} is for {row['node']}, and was taken by {sorted(takers)}")
    return wrong
