"""Words of the cluster scheduler API's contract: its items' fields, its times, its 404."""

from __future__ import annotations

import re
from typing import Any

ROOT = "/cxs/tasks"
FIELDS = [
    "itemId", "taskType", "status", "nextScheduledExecution", "lastExecutionDate", "failureCount", "persistent", "parameters",
    "currentStep", "statusDetails", "checkpointData", "maxRetries", "retryDelay",
]  # fmt: skip
UTC_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")


def missing(response: Any, id: str) -> None:
    assert response.status_code == 404
    assert response.json == {"error": "Task not found", "code": "404", "message": f"No task exists with ID: {id}"}
