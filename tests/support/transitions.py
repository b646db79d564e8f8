"""The transition table of sql/README.md, as the tests of the functions and of the document itself hold it."""

from __future__ import annotations

from pgfleet import tasks

STATUSES = tasks.STATUSES
GONE = "PF004"
WRONG = "PF003"
NOT = "left alone"

#: action -> {status before: status after}. A status that is not named is refused with the action's SQLSTATE, or, where
#: that is NOT, passed over without a word; one may have a SQLSTATE of its own. This is the transition table of
#: sql/README.md.
TRANSITIONS: dict[str, tuple[str, dict[str, str]]] = {
    "claim_tasks": (NOT, {"fresh": "started"}),
    "promote_tasks": (NOT, {"waiting": "fresh"}),
    "finish_tasks": (NOT, {"started": "success"}),
    "finish_export": (GONE, {"started": "success", "success": "success"}),
    "fail_task, retries left": (GONE, {"started": "waiting"}),
    "fail_task, no retries left": (GONE, {"started": "failure"}),
    "fail_task, cancel asked for": (GONE, {"started": "cancelled"}),
    "end_cancelled": (GONE, {"started": WRONG}),
    "end_cancelled, cancel asked for": (GONE, {"started": "cancelled"}),
    "release_tasks": (NOT, {"started": "fresh"}),
    "release_tasks, cancel asked for": (NOT, {"started": "cancelled"}),
    "release_unheld": (NOT, {"started": "fresh"}),
    "release_unheld, cancel asked for": (NOT, {"started": "cancelled"}),
    "deregister_worker": (NOT, {"started": "fresh"}),
    "deregister_worker, cancel asked for": (NOT, {"started": "cancelled"}),
    "rescue_tasks, crashes left": (NOT, {"started": "fresh"}),
    "rescue_tasks, no crashes left": (NOT, {"started": "crashed"}),
    "rescue_tasks, cancel asked for": (NOT, {"started": "cancelled"}),
    "crash_parts": (NOT, {"waiting": "crashed", "fresh": "crashed"}),
    "progress_task": (GONE, {"started": "started"}),
    "checkpoint_task": (GONE, {"started": "started"}),
    "cancel_task": (WRONG, {"waiting": "cancelled", "fresh": "cancelled", "started": "started"}),
    "retry_task": (WRONG, {"failure": "fresh", "crashed": "fresh", "cancelled": "fresh"}),
    "resume_task": (WRONG, {"crashed": "fresh"}),
    "configure_task": (WRONG, {s: s for s in STATUSES if s not in ("success", "cancelled")}),
}

SHA = "0" * 64
#: Worker, task, attempt, file name, :data:`SHA`.
FINISH_EXPORT = "select finish_export(%s, %s, %s, '{}', %s, 1, 'csv', 1, %s)"
