"""Every attempt leaves one record: the row's own while it lasts, one in task_attempts when another follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pgfleet import tasks
from tests.support.database import Database
from tests.support.fleet import (
    OTHER,
    WORKER,
    Blocked,
    Connection,
    claim,
    column,
    create,
    executions,
    lapse,
    put,
    register,
    sqlstate,
    status,
    task,
    value,
)

COST = "1.5, 2048"  # CPU seconds, bytes


def attempts(conn: Connection, id: int) -> list[tuple[Any, ...]]:
    """(attempt, worker, status, error, cpu_seconds, peak_memory) of each attempt, as operators are shown them."""
    names = ("attempt", "worker", "status", "error", "cpu_seconds", "peak_memory")
    return [tuple(one[name] for name in names) for one in executions(conn, id)]


def kept(conn: Connection, id: int) -> list[tuple[int, str]]:
    """(attempt, status) of what is in the history alone."""
    query = "select attempt, status from task_attempts where task_id = %s order by attempt"
    return [(row[0], row[1]) for row in conn.execute(query, [id])]


def cancel_asked(conn: Connection, id: int) -> None:
    assert tasks.cancel(conn, id) == "started"


def test_a_task_that_has_not_begun_has_no_attempts(database: Database) -> None:
    conn = database.connect()
    register(conn)
    for before in ("waiting", "fresh", "cancelled"):
        assert executions(conn, put(conn, before)) == []


def test_a_first_attempt_that_ends_the_task_is_the_row_and_nothing_more_is_written(database: Database) -> None:
    conn = database.connect()
    register(conn)
    for after in ("success", "failure", "crashed"):
        id = put(conn, after)
        assert [(one[0], one[2]) for one in attempts(conn, id)] == [(1, after)]
        assert kept(conn, id) == []


def test_an_attempt_tells_its_worker_its_node_and_when_it_began_and_ended(database: Database) -> None:
    conn = database.connect()
    register(conn)
    id = create(conn, max_retries=1, retry_delay="0")
    claim(conn)
    [running] = executions(conn, id)
    assert (running["worker"], running["node"], running["status"]) == (WORKER, "node", "started")
    assert running["started_at"] == task(conn, id)["started_at"]
    assert running["ended_at"] is None
    conn.execute("select fail_task(%s, %s, 1, 'broke', 'trace')", [WORKER, id])
    [failed] = executions(conn, id)
    assert failed["started_at"] == running["started_at"]
    assert failed["ended_at"] == task(conn, id)["updated_on"] > failed["started_at"]
    assert (failed["node"], failed["error"], failed["error_detail"]) == ("node", "broke", "trace")


def test_the_node_of_an_attempt_is_known_after_its_worker_is_forgotten(database: Database) -> None:
    conn = database.connect()
    register(conn)
    id = put(conn, "success")
    conn.execute("select deregister_worker(%s)", [WORKER])
    assert executions(conn, id)[0]["node"] == "node"
    assert value(conn, "select ended_at >= started_at from worker_history where id = %s", WORKER) is True


def test_when_a_lost_worker_ended_is_when_it_was_declared_lost(database: Database) -> None:
    conn = database.connect()
    register(conn)
    assert value(conn, "select ended_at from worker_history") is None
    lapse(conn)
    conn.execute("select rescue_tasks()")
    assert value(conn, "select h.ended_at = w.lost_at from worker_history h join workers w using (id)") is True


FAIL = f"select fail_task(%s, %s, 1, 'broke', 'trace', false, '0', {COST})"
ENDS: dict[str, tuple[Callable[[Connection, int], object], str | None]] = {
    "failed": (lambda c, id: c.execute(FAIL, [WORKER, id]), "broke"),
    "released": (lambda c, id: c.execute("select release_tasks(%s, %s, '{1}')", [WORKER, [id]]), None),
    "unheld": (lambda c, id: c.execute("select release_unheld(%s, '{}', '{}')", [WORKER]), None),
    "left": (lambda c, id: c.execute("select deregister_worker(%s)", [WORKER]), None),
    "lost": (lambda c, id: (lapse(c), c.execute("select rescue_tasks()")), None),
}  # fmt: skip
KEPT = {"failed": "failure", "released": "released", "unheld": "released", "left": "released", "lost": "lost"}


@pytest.mark.parametrize("end", ENDS)
def test_an_attempt_that_another_follows_is_kept_as_it_ended(database: Database, end: str) -> None:
    conn = database.connect()
    register(conn)
    register(conn, OTHER)
    id = create(conn, max_retries=1)
    claim(conn)
    act, error = ENDS[end]
    act(conn, id)
    conn.execute("select promote_tasks()")
    cost = (1.5, 2048) if end == "failed" else (None, None)
    first = (1, WORKER, KEPT[end], error, *cost)
    assert attempts(conn, id) == [first]
    assert claim(conn, worker=OTHER) == [id]
    assert attempts(conn, id) == [first, (2, OTHER, "started", None, None, None)]
    assert value(conn, "select finish_tasks(%s, %s, '{2}', null, '{0.5}', '{64}')", OTHER, [id]) == []
    assert attempts(conn, id) == [first, (2, OTHER, "success", None, 0.5, 64)]


def test_the_error_of_an_earlier_attempt_is_not_told_of_a_later_one(database: Database) -> None:
    conn = database.connect()
    conn.execute("insert into task_types (name, max_crashes) values ('job', 1)")
    register(conn)
    register(conn, OTHER)
    register(conn, "third")
    id = create(conn, max_retries=1)
    claim(conn)
    conn.execute("select fail_task(%s, %s, 1, 'broke', 'trace', false, '0')", [WORKER, id])
    conn.execute("select promote_tasks()")
    for worker in (OTHER, "third"):
        assert claim(conn, worker=worker) == [id]
        lapse(conn, worker)
        conn.execute("select rescue_tasks()")
    told = [(one["status"], one["error"], one["error_detail"]) for one in executions(conn, id)]
    assert told == [
        ("failure", "broke", "trace"),
        ("lost", None, None),
        ("crashed", "Its workers were lost 2 times.", None),
    ]


@pytest.mark.parametrize("ended", ["failure", "crashed", "cancelled"])
def test_a_retry_by_hand_keeps_the_attempt_that_had_ended_the_task(database: Database, ended: str) -> None:
    conn = database.connect()
    register(conn)
    id = put(conn, "started" if ended == "cancelled" else ended)
    if ended == "cancelled":
        cancel_asked(conn, id)
        conn.execute(f"select end_cancelled(%s, %s, 1, {COST})", [WORKER, id])
    before = executions(conn, id)
    tasks.retry(conn, id)
    assert executions(conn, id) == before
    assert kept(conn, id) == [(1, ended)]


def test_a_change_of_the_retry_policy_leaves_the_time_at_which_an_attempt_ended(database: Database) -> None:
    conn = database.connect()
    register(conn)
    id = put(conn, "failure")
    before = executions(conn, id)
    tasks.configure(conn, id, max_retries=5)
    assert executions(conn, id) == before


def test_a_task_cancelled_between_two_attempts_is_kept_once(database: Database) -> None:
    conn = database.connect()
    register(conn)
    id = create(conn, max_retries=1)
    claim(conn)
    conn.execute("select fail_task(%s, %s, 1, 'broke')", [WORKER, id])
    assert tasks.cancel(conn, id) == "cancelled"
    assert [(one[0], one[2]) for one in attempts(conn, id)] == [(1, "failure")]
    tasks.retry(conn, id)
    assert kept(conn, id) == [(1, "failure")]


def test_a_row_that_an_operator_made_by_hand_can_be_retried(database: Database) -> None:
    conn = database.connect()
    register(conn)
    never_begun = value(
        conn, "insert into tasks (type, status, worker, created_by) values ('job', 'failure', 'me', 1) returning id"
    )
    told_already = put(conn, "failure")
    tasks.retry(conn, told_already)
    conn.execute("update tasks set status = 'failure', worker = 'me' where id = %s", [told_already])
    for id in (never_begun, told_already):
        tasks.retry(conn, id)
        assert status(conn, id) == "fresh"
    assert (kept(conn, never_begun), kept(conn, told_already)) == ([], [(1, "failure")])


def test_a_late_settle_of_a_superseded_attempt_changes_no_record(database: Database) -> None:
    conn = database.connect()
    register(conn)
    register(conn, OTHER)
    id = create(conn)
    claim(conn)
    lapse(conn)
    conn.execute("select rescue_tasks()")
    assert claim(conn, worker=OTHER) == [id]
    before = attempts(conn, id), task(conn, id)
    assert value(conn, "select finish_tasks(%s, %s, '{1}', '{late}', '{1}', '{1}')", WORKER, [id]) == [id]
    assert sqlstate(conn, "select fail_task(%s, %s, 1, 'late')", WORKER, id) == "PF004"
    assert value(conn, "select release_tasks(%s, %s, '{1}')", WORKER, [id]) == 0
    assert (attempts(conn, id), task(conn, id)) == before


def test_of_a_settle_and_a_rescue_that_meet_one_alone_is_recorded(database: Database) -> None:
    worker, rescuer = database.connect(), database.connect()
    register(worker)
    id = put(worker, "started", max_retries=1)
    with rescuer.transaction():
        lapse(rescuer)
        rescuer.execute("select rescue_tasks()")
        late = Blocked(
            database.connect(),
            worker,
            lambda: sqlstate(worker, "select fail_task(%s, %s, 1, 'broke')", WORKER, id),
        )
    assert late.result() == "PF004"
    assert (kept(worker, id), task(worker, id)["failure_count"]) == ([(1, "lost")], 0)


def test_the_history_goes_with_its_task(database: Database) -> None:
    conn = database.connect()
    register(conn)
    id = put(conn, "failure")
    tasks.retry(conn, id)
    conn.execute("delete from tasks where id = %s", [id])
    assert column(conn, "select task_id from task_attempts") == []


def test_the_cost_of_some_of_a_batch_is_recorded_with_those(database: Database) -> None:
    conn = database.connect()
    register(conn)
    ids = [put(conn, "started") for _ in range(4)]
    settle = (
        "select finish_tasks(%s, %s, '{1,1,1,1}', '{null,\"r\",null,null}', '{null,null,2.5,null}', '{null,7,null,9}')"
    )
    assert value(conn, settle, WORKER, ids) == []
    rows = [tuple(task(conn, id)[name] for name in ("result", "cpu_seconds", "peak_memory")) for id in ids]
    assert rows == [(None, None, None), ("r", None, 7), (None, 2.5, None), (None, None, 9)]


def test_an_attempt_that_was_told_already_keeps_nothing_from_being_released(database: Database) -> None:
    conn = database.connect()
    register(conn)
    id = put(conn, "started")
    conn.execute("select release_tasks(%s, %s, '{1}')", [WORKER, [id]])
    conn.execute("update tasks set attempt = 0 where id = %s", [id])
    claim(conn)
    assert value(conn, "select release_tasks(%s, %s, '{1}')", WORKER, [id]) == 1
    assert status(conn, id) == "fresh"
    assert [attempt["attempt"] for attempt in executions(conn, id)].count(1) == 1
