"""Schedules as items of the cluster scheduler API: how they stand, and what can be done to them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import structlog

from pgfleet import cluster, errors, firing, schedules
from pgfleet.schedules import Trigger
from pgfleet_api import item_ids
from tests.support.api import refused
from tests.support.cluster_api import FIELDS, ROOT, UTC_TIME, end, missing, names, path, put
from tests.support.database import Database
from tests.support.firing import HOUR, HOURLY, come_due, finish
from tests.support.fleet import WORKER, Blocked, Connection, claim, register, status, task, value

ENDS = {"success": "COMPLETED", "failure": "FAILED", "crashed": "CRASHED", "cancelled": "CANCELLED"}


@pytest.fixture
def conn(database: Database) -> Connection:
    """A connection to a fleet with one worker, which takes jobs."""
    made = database.connect()
    register(made)
    return made


@pytest.fixture
def item(conn: Connection, admin: Any) -> Callable[..., Any]:
    """The item of a schedule of that name."""

    def get(name: str = "s") -> Any:
        response = admin("GET", path(name))
        assert response.status_code == 200, response.text
        return response.json

    return get


def test_a_schedule_is_one_item_that_stands_while_its_runs_come_and_go(conn: Connection, admin: Any, item: Any) -> None:
    put(conn, HOURLY, data={"a": 1}, max_retries=3, retry_delay=timedelta(seconds=1.5))
    due = schedules.get(conn, "s").next_due
    assert due is not None
    new = item()
    assert list(new) == FIELDS
    assert uuid.UUID(new["itemId"]).version == 8
    assert (new["taskType"], new["status"], new["persistent"], new["parameters"]) == (
        "job",
        "SCHEDULED",
        True,
        {"a": 1},
    )
    assert (new["nextScheduledExecution"], new["lastExecutionDate"]) == (due.isoformat(), None)
    assert (new["maxRetries"], new["retryDelay"], new["failureCount"]) == (3, 1500, 0)
    assert (new["currentStep"], new["checkpointData"]) == (None, None)
    id = schedules.trigger(conn, "s")
    assert item()["status"] == "WAITING"
    claim(conn)
    assert item()["status"] == "RUNNING"
    conn.execute("select fail_task(%s, %s, 1, 'No.', null, false, '1 minute')", [WORKER, id])
    retrying = item()
    assert (retrying["status"], retrying["failureCount"]) == ("SCHEDULED", 0)
    assert retrying["nextScheduledExecution"] == task(conn, id)["run_at"].isoformat()
    conn.execute("update tasks set run_at = now() where id = %s", [id])
    conn.execute("select promote_tasks()")
    claim(conn)
    conn.execute("select fail_task(%s, %s, 2, 'No.', null, true)", [WORKER, id])
    for _ in range(2):  # before and after the run is accounted for
        after = item()
        assert (after["status"], after["failureCount"], after["nextScheduledExecution"]) == (
            "SCHEDULED",
            1,
            due.isoformat(),
        )
        assert UTC_TIME.fullmatch(after["lastExecutionDate"])
        details = after["statusDetails"]
        assert (details["schedule"], details["lastRun"], details["lastStatus"], details["error"]) == (
            "s",
            item_ids.of_task(id),
            "FAILED",
            "No.",
        )
        conn.execute("select end_runs()")
    run = admin("GET", f"{ROOT}/{item_ids.of_task(id)}").json
    assert (run["status"], run["statusDetails"]["schedule"]) == ("FAILED", "s")
    assert run["nextScheduledExecution"] is None  # that of the schedule stands there
    before = item()["itemId"]
    schedules.remove(conn, "s")
    put(conn)
    assert item()["itemId"] == before


def test_what_nothing_starts_by_itself_stands_as_its_last_run_ended(conn: Connection, item: Any) -> None:
    put(conn)
    assert item()["status"] == "SCHEDULED"  # it has no run yet
    for how, word in ENDS.items():
        put(conn, name=how)
        schedules.trigger(conn, how)
        end(conn, how)
        assert item(how)["status"] == word
    conn.execute("select end_runs()")
    conn.execute("delete from tasks")  # purged: the schedule remembers
    assert {how: item(how)["status"] for how in ENDS} == ENDS


def test_an_older_run_that_is_kept_longer_does_not_tell_how_the_schedule_stands(conn: Connection, item: Any) -> None:
    put(conn)
    for how in ("failure", "success"):
        schedules.trigger(conn, "s")
        id = end(conn, how)
    conn.execute("select end_runs()")
    conn.execute("delete from tasks where id = %s", [id])
    assert (item()["status"], item()["statusDetails"]["lastStatus"]) == ("COMPLETED", "COMPLETED")


@pytest.mark.parametrize(
    ("triggers", "stands"),
    [
        ([HOURLY], "SCHEDULED"),
        ([Trigger.crontab("0 2 * * *")], "SCHEDULED"),
        ([Trigger.on("e")], "SCHEDULED"),
        ([Trigger.once(after=HOUR)], "SCHEDULED"),
        ([], "COMPLETED"),
    ],
)
def test_what_may_start_it_makes_it_scheduled_unless_it_is_disabled(
    conn: Connection, item: Any, triggers: list[Trigger], stands: str
) -> None:
    put(conn, *triggers)
    schedules.trigger(conn, "s")
    finish(conn)
    assert item()["status"] == stands
    schedules.disable(conn, "s")
    assert (item()["status"], item()["nextScheduledExecution"]) == ("CANCELLED", None)
    schedules.trigger(conn, "s")
    assert item()["status"] == "WAITING"


def test_a_pause_of_fixed_length_and_an_owed_run_are_still_to_come_and_a_fired_one_time_trigger_is_not(
    conn: Connection, item: Any
) -> None:
    put(conn, Trigger.interval(HOUR, fixed_delay=True), name="paused")
    put(conn, Trigger.once(after=HOUR), name="once")
    put(conn, Trigger.once(after=HOUR), name="owing")
    schedules.trigger(conn, "owing")
    for name in ("paused", "once", "owing"):
        come_due(conn, name=name)
    firing.fire(conn)
    for id in claim(conn, 3):
        conn.execute("select finish_tasks(%s, %s, '{1}', '{done}')", [WORKER, [id]])
    assert (item("paused")["status"], item("paused")["nextScheduledExecution"]) == ("SCHEDULED", None)
    assert item("once")["status"] == "COMPLETED"
    assert (item("owing")["status"], item("owing")["statusDetails"]["owed"]) == ("SCHEDULED", 1)


def test_what_can_not_be_fired_has_failed_and_says_why_until_it_is_retried(
    conn: Connection, admin: Any, item: Any
) -> None:
    put(conn, HOURLY)
    come_due(conn)
    conn.execute("alter table tasks add constraint none check (schedule is null)")
    assert firing.fire(conn).problems
    assert item()["status"] == "FAILED"
    assert "none" in item()["statusDetails"]["error"]
    conn.execute("alter table tasks drop constraint none")
    again = admin("POST", path(tail="/retry")).json
    assert (again["status"], again["statusDetails"]["error"]) == ("SCHEDULED", None)
    assert len(firing.fire(conn).tasks) == 1


def test_delete_removes_a_schedule_and_leaves_its_run(conn: Connection, admin: Any) -> None:
    put(conn, HOURLY)
    id = schedules.trigger(conn, "s")
    with structlog.testing.capture_logs() as logged:
        response = admin("DELETE", path())
    assert (response.status_code, response.data) == (204, b"")
    assert [(line["event"], line.get("schedule")) for line in logged if line["log_level"] == "info"] == [
        ("schedule.removed", "s")
    ]
    gone = path().removeprefix(f"{ROOT}/")
    for method, tail in (
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/retry"),
        ("POST", "/resume"),
        ("PUT", "/config?maxRetries=1"),
    ):
        missing(admin(method, path(tail=tail)), gone)
    assert names(admin) == ([id], 1)


def test_put_config_is_for_the_runs_to_come(conn: Connection, admin: Any, item: Any) -> None:
    put(conn, max_retries=1)
    schedules.trigger(conn, "s")
    changed = admin("PUT", path(tail="/config?maxRetries=5&retryDelay=60000")).json
    assert (changed["maxRetries"], changed["retryDelay"]) == (5, 60000) == (item()["maxRetries"], item()["retryDelay"])
    assert admin("PUT", path(tail="/config?retryDelay=1")).json["maxRetries"] == 5
    finish(conn)
    run = task(conn, schedules.trigger(conn, "s"))
    assert (run["max_retries"], run["retry_delay"]) == (5, timedelta(milliseconds=1))
    for query in ("", "?maxRetries=-1", "?maxRetries=1001", "?retryDelay=x"):
        refused(admin("PUT", path(tail=f"/config{query}")), 400)


def test_retry_enables_what_was_disabled(conn: Connection, admin: Any) -> None:
    put(conn, HOURLY, enabled=False)
    assert admin("POST", path(tail="/retry")).json["status"] == "SCHEDULED"
    assert schedules.get(conn, "s").enabled
    assert value(conn, "select count(*) from tasks") == 0


@pytest.mark.parametrize("how", ["failure", "crashed", "cancelled"])
def test_retry_starts_a_new_run_of_what_has_ended_badly_and_may_reset_its_failures(
    conn: Connection, admin: Any, how: str
) -> None:
    put(conn)
    schedules.trigger(conn, "s")
    id = end(conn, how)
    failures = 0 if how == "cancelled" else 1
    again = admin("POST", path(tail="/retry")).json
    assert (again["status"], again["failureCount"]) == ("WAITING", failures)
    assert (status(conn, id), value(conn, "select count(*) from tasks")) == (how, 2)
    conn.execute("select cancel_task(max(id)) from tasks")
    assert admin("POST", path(tail="/retry?resetFailureCount=true")).json["failureCount"] == 0
    assert schedules.get(conn, "s").failures == 0


def test_failures_beyond_those_accounted_for_at_once_are_reset_too(conn: Connection) -> None:
    put(conn)
    conn.execute(
        "insert into run_ends (schedule, task, run_at, status) select 's', i, now(), 'failure' from generate_series(1, 1500) i"
    )
    conn.execute("select enable_schedule('s', false)")
    conn.execute("select retry_schedule('s', true)")
    conn.execute("select end_runs()")
    assert schedules.get(conn, "s").failures == 0


def test_of_two_who_retry_at_once_one_gets_a_run_and_the_other_is_told(database: Database, conn: Connection) -> None:
    put(conn)
    schedules.trigger(conn, "s")
    end(conn, "failure")
    first, second = database.connect(), database.connect()
    with first.transaction():
        cluster.retry_schedule(first, "s")
        other = Blocked(conn, second, lambda: cluster.retry_schedule(second, "s"))
    with pytest.raises(errors.WrongState, match="it is fresh"):
        other.result()
    assert value(conn, "select count(*) from tasks") == 2


def test_resume_lets_the_crashed_run_go_on_from_its_checkpoint(conn: Connection, admin: Any) -> None:
    put(conn)
    schedules.trigger(conn, "s")
    id = end(conn, "crashed")
    assert admin("POST", path(tail="/resume")).json["status"] == "WAITING"
    assert (status(conn, id), task(conn, id)["checkpoint"]) == ("fresh", "7")


def test_a_wrong_state_is_refused_in_the_contracts_words_and_changes_nothing(
    conn: Connection, admin: Any, item: Any
) -> None:
    put(conn, HOURLY)
    for name, how in (("done", "success"), ("broken", "failure")):
        put(conn, name=name)
        schedules.trigger(conn, name)
        end(conn, how)
    id = value(conn, "select min(id) from tasks")
    rows = "select jsonb_agg(to_jsonb(s) order by name) from schedules s"
    before = value(conn, rows), value(conn, "select count(*) from tasks")
    for place, verb, done, word in (
        (path(), "POST /retry", "retried", "SCHEDULED"),
        (path(), "POST /resume", "resumed", "SCHEDULED"),
        (path("done"), "POST /retry", "retried", "COMPLETED"),
        (path("broken"), "POST /resume", "resumed", "FAILED"),
        (f"{ROOT}/{item_ids.of_task(id)}", "POST /retry", "retried", "COMPLETED"),
        (f"{ROOT}/{item_ids.of_task(id)}", "POST /resume", "resumed", "COMPLETED"),
        (f"{ROOT}/{item_ids.of_task(id)}", "DELETE ", "cancelled", "COMPLETED"),
        (f"{ROOT}/{item_ids.of_task(id)}", "PUT /config?maxRetries=1", "configured", "COMPLETED"),
    ):
        method, _, tail = verb.partition(" ")
        response = admin(method, place + tail)
        assert response.status_code == 409
        said = f"Task {place.removeprefix(f'{ROOT}/')} can't be {done}: it is {word}."
        assert response.json == {"error": "Conflict", "code": "409", "message": said}
    assert (value(conn, rows), value(conn, "select count(*) from tasks")) == before
    conn.execute("select end_runs(); delete from tasks")
    put(conn, name="crashed")
    conn.execute("update schedules set last_status = 'crashed', last_task = 1 where name = 'crashed'")
    assert item("crashed")["status"] == "CRASHED"
    refused(admin("POST", path("crashed", "/resume")), 409, "it is CRASHED")  # its run is not kept any more
