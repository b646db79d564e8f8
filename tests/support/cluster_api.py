"""Words for tests of the cluster scheduler API: where its items are, and schedules whose runs end in every way."""

from __future__ import annotations

import hashlib
import re
import uuid
from typing import Any

from pgfleet import schedules
from pgfleet.schedules import Schedule, Trigger
from pgfleet_api import item_ids
from tests.support.fleet import WORKER, Connection, claim, status

ROOT = "/cxs/tasks"
FIELDS = [
    "itemId", "taskType", "status", "nextScheduledExecution", "lastExecutionDate", "failureCount", "persistent", "parameters",
    "currentStep", "statusDetails", "checkpointData", "maxRetries", "retryDelay",
]  # fmt: skip
UTC_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")


def missing(response: Any, id: str) -> None:
    assert response.status_code == 404
    assert response.json == {"error": "Task not found", "code": "404", "message": f"No task exists with ID: {id}"}


def path(name: str = "s", tail: str = "") -> str:
    """The schedule's place: its UUID is made of its name alone."""
    digest = bytearray(hashlib.sha256(f"pgfleet schedule {name}".encode()).digest()[:16])
    digest[6], digest[8] = digest[6] & 0x0F | 0x80, digest[8] & 0x3F | 0x80
    return f"{ROOT}/{uuid.UUID(bytes=bytes(digest))}{tail}"


def put(conn: Connection, *triggers: Trigger, name: str = "s", **given: Any) -> None:
    schedules.put(conn, Schedule(name, "job", triggers, **given))


def end(conn: Connection, how: str) -> int:
    """Let the one run that is ready be started, and end so; answers its id."""
    (id,) = claim(conn)
    match how:
        case "success":
            conn.execute("select finish_tasks(%s, %s, '{1}', '{done}')", [WORKER, [id]])
        case "failure":
            conn.execute("select fail_task(%s, %s, 1, 'broke', give_up => true)", [WORKER, id])
        case "cancelled":
            conn.execute("select cancel_task(%s)", [id])
            conn.execute("select end_cancelled(%s, %s, 1)", [WORKER, id])
        case "crashed":
            # Three lost workers would do it too: test_rescue_sql.py shows that.
            conn.execute(
                "update tasks set status = 'crashed', checkpoint = '7', updated_on = now() where id = %s", [id]
            )
    assert status(conn, id) == how
    return id


def names(admin: Any, query: str = "") -> tuple[list[Any], int]:
    """What a page lists, schedules by name and tasks by id, and the totalSize."""
    response = admin("GET", f"{ROOT}?{query}")
    assert response.status_code == 200, response.text
    found = [
        item_ids.task_of(one["itemId"])
        or (one["statusDetails"].get("schedule") if one["persistent"] else f"memory of {one['taskType']}")
        for one in response.json["list"]
    ]
    return found, response.json["totalSize"]
