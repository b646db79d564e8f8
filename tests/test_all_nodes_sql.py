"""A task for all nodes: a part each, a parent that sums them up, and nodes that die meanwhile."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from pgfleet import errors, tasks
from tests.support.database import Database
from tests.support.fleet import Blocked, Connection, claim, column, sqlstate, status, task, value

NODES = ("a", "b")


def fleet(database: Database, nodes: tuple[str, ...] = NODES) -> Connection:
    """A worker on each node, named after it."""
    conn = database.connect()
    for node in nodes:
        register(conn, node)
    return conn


def register(conn: Connection, node: str, types: str = "{job}") -> None:
    conn.execute("select register_worker(%s, %s, %s, 10, '1 hour', 'test')", [f"worker {node}", node, types])


def parts(conn: Connection, parent: int) -> dict[str, int]:
    """The id of each node's part."""
    rows = conn.execute("select node, id from tasks where parent = %s order by node", [parent]).fetchall()
    return dict(rows)


def run(conn: Connection, node: str, part: int, *, fail: bool = False) -> None:
    """Let the node's worker claim its part and settle it."""
    worker = f"worker {node}"
    assert claim(conn, 9, worker=worker) == [part]
    attempt = task(conn, part)["attempt"]
    if fail:
        conn.execute("select fail_task(%s, %s, %s, 'broke')", [worker, part, attempt])
    else:
        conn.execute("select finish_tasks(%s, %s, %s, '{done}')", [worker, [part], [attempt]])


def failed(conn: Connection) -> tuple[int, dict[str, int]]:
    """A task for all nodes of which every part has failed, and its parts."""
    parent = tasks.create_for_all_nodes(conn, "job", created_by=1)
    made = parts(conn, parent)
    for node in NODES:
        run(conn, node, made[node], fail=True)
    return parent, made


def summary(conn: Connection, parent: int) -> dict[str, Any]:
    return {node: part["status"] for node, part in json.loads(task(conn, parent)["result"])["parts"].items()}


def test_each_live_node_of_the_type_has_one_part_and_late_nodes_none(database: Database) -> None:
    conn = fleet(database)
    conn.execute("select register_worker('twin', 'a', '{job}', 10, '1 hour', 'test')")
    register(conn, "other type", "{tea}")
    for state, change in {
        "lapsed": "lease_expires_at = now() - interval '1 s'",
        "lost": "lost_at = now()",
        "draining": "orders = 'drain'",
    }.items():
        register(conn, state)
        conn.execute(f"update workers set {change} where node = %s", [state])
    parent = tasks.create_for_all_nodes(conn, "job", {"n": 1}, created_by=7, priority=3)
    register(conn, "late")
    made = parts(conn, parent)
    assert list(made) == ["a", "b"]
    row = task(conn, parent)
    assert (row["status"], row["worker"], row["progress"], row["parent"]) == ("started", "all nodes", 0.0, None)
    for part in made.values():
        row = task(conn, part)
        assert (row["data"], row["created_by"], row["priority"], row["status"]) == ('{"n": 1}', 7, 3, "fresh")


def test_without_a_live_node_of_the_type_there_is_nothing_to_make(database: Database) -> None:
    conn = fleet(database)
    with pytest.raises(errors.InvalidTask, match="No live worker"):
        tasks.create_for_all_nodes(conn, "csv_export", created_by=1)
    with pytest.raises(errors.UnknownType):
        tasks.create_for_all_nodes(conn, "nonesuch", created_by=1)
    assert value(conn, "select count(*) from tasks") == 0


def test_the_parent_is_nobodys_to_claim_and_each_part_its_nodes_alone(database: Database) -> None:
    conn = fleet(database)
    register(conn, "late")
    conn.execute("update workers set lease_expires_at = 'infinity'")
    parent = tasks.create_for_all_nodes(conn, "job", created_by=1)
    made = parts(conn, parent)
    assert claim(conn, 9, worker="worker a") == [made["a"]]
    assert column(conn, "select id from claim_tasks('worker a', '{job}', 9, ids => %s)", [parent, *made.values()]) == []
    assert column(conn, "select id from rescue_tasks()") == []


def test_a_parent_ends_with_its_last_part_and_tells_of_all(database: Database) -> None:
    conn = fleet(database)
    parent = tasks.create_for_all_nodes(conn, "job", created_by=1)
    made = parts(conn, parent)
    run(conn, "a", made["a"])
    row = task(conn, parent)
    assert (row["status"], row["progress"], row["current_step"]) == ("started", 0.5, "1 of 2 nodes")
    run(conn, "b", made["b"])
    row = task(conn, parent)
    assert (row["status"], row["progress"], row["error"]) == ("success", 1.0, None)
    assert json.loads(row["result"]) == {
        "parts": {node: {"task_id": id, "status": "success"} for node, id in made.items()}
    }


def test_a_failed_part_makes_the_parent_fail_by_name_but_only_with_the_last_part(database: Database) -> None:
    conn = fleet(database)
    parent = tasks.create_for_all_nodes(conn, "job", created_by=1)
    made = parts(conn, parent)
    run(conn, "b", made["b"], fail=True)
    assert status(conn, parent) == "started"
    run(conn, "a", made["a"])
    row = task(conn, parent)
    assert (row["status"], row["error"]) == ("failure", "1 of 2 nodes did not succeed: b.")
    assert row["failure_count"] == 1
    assert summary(conn, parent) == {"a": "success", "b": "failure"}


def test_two_last_parts_that_settle_at_once_settle_the_parent_once(database: Database) -> None:
    conn, second, watcher = fleet(database), database.connect(), database.connect()
    parent = tasks.create_for_all_nodes(conn, "job", created_by=1)
    made = parts(conn, parent)
    for node in NODES:
        assert claim(conn, worker=f"worker {node}") == [made[node]]
    watcher.execute("create table seen (status text)")
    watcher.execute(
        "create function see() returns trigger language plpgsql as"
        " $$ begin insert into seen values (new.status); return null; end $$"
    )
    watcher.execute(
        "create trigger see after update of status on tasks for each row"
        f" when (new.id = {parent} and new.status <> old.status) execute function see()"
    )
    finish = "select finish_tasks(%s, %s, '{1}', null)"
    with conn.transaction():
        conn.execute(finish, ["worker a", [made["a"]]])
        conn.execute("set constraints all immediate")  # its commit's work is done; the gate is the commit itself
        assert status(conn, parent) == "started"  # it can't see the other part's end
        other = Blocked(watcher, second, lambda: second.execute(finish, ["worker b", [made["b"]]]))
    other.result()
    assert status(conn, parent) == "success"
    assert column(conn, "select status from seen") == ["success"]


def test_above_read_committed_the_later_of_two_last_parts_is_refused_rather_than_lost(database: Database) -> None:
    conn, second = fleet(database), database.connect()
    parent = tasks.create_for_all_nodes(conn, "job", created_by=1)
    made = parts(conn, parent)
    for node in NODES:
        claim(conn, worker=f"worker {node}")
    second.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    second.autocommit = False
    second.execute("select 1 from tasks")
    conn.execute("select finish_tasks('worker a', %s, '{1}', null)", [[made["a"]]])
    second.execute("select finish_tasks('worker b', %s, '{1}', null)", [[made["b"]]])
    with pytest.raises(psycopg.errors.SerializationFailure):
        second.commit()
    conn.execute("select finish_tasks('worker b', %s, '{1}', null)", [[made["b"]]])
    assert status(conn, parent) == "success"


def test_workers_that_settle_parts_of_two_parents_in_any_order_do_not_deadlock(database: Database) -> None:
    conn, second, watcher = fleet(database), database.connect(), database.connect()
    conn.execute("set deadlock_timeout = '100ms'")
    first, last = (tasks.create_for_all_nodes(conn, "job", created_by=1) for _ in range(2))
    ids = {node: [parts(conn, first)[node], parts(conn, last)[node]] for node in NODES}
    for node in NODES:
        assert claim(conn, 2, worker=f"worker {node}") == ids[node]
    finish = "select finish_tasks(%s, %s, '{1,1}', '{x,y}')"
    with conn.transaction():
        conn.execute(finish, ["worker a", ids["a"]])
        conn.execute("set constraints all immediate")
        other = Blocked(watcher, second, lambda: second.execute(finish, ["worker b", ids["b"][::-1]]))
    other.result()
    assert [status(conn, first), status(conn, last)] == ["success", "success"]


@pytest.mark.parametrize("begun", [False, True], ids=["no part runs", "one part runs"])
def test_cancelling_a_parent_calls_off_its_parts_and_then_itself(database: Database, begun: bool) -> None:
    conn = fleet(database)
    parent = tasks.create_for_all_nodes(conn, "job", created_by=1)
    made = parts(conn, parent)
    if begun:
        claim(conn, worker="worker a")
    assert value(conn, "select cancel_task(%s)", parent) == ("started" if begun else "cancelled")
    if begun:
        assert (status(conn, parent), status(conn, made["b"])) == ("started", "cancelled")
        conn.execute("select end_cancelled('worker a', %s, 1)", [made["a"]])
    assert status(conn, parent) == "cancelled"
    assert summary(conn, parent) == {"a": "cancelled", "b": "cancelled"}


def test_a_cancel_that_meets_a_part_being_settled_waits_and_both_succeed(database: Database) -> None:
    conn, second, watcher = fleet(database), database.connect(), database.connect()
    parent = tasks.create_for_all_nodes(conn, "job", created_by=1)
    made = parts(conn, parent)
    claim(conn, worker="worker a")
    with conn.transaction():
        conn.execute("select finish_tasks('worker a', %s, '{1}', null)", [[made["a"]]])
        cancel = Blocked(watcher, second, lambda: value(second, "select cancel_task(%s)", parent))
    assert cancel.result() == "cancelled"
    assert summary(conn, parent) == {"a": "success", "b": "cancelled"}
    assert status(conn, parent) == "cancelled"


@pytest.mark.parametrize("of", ["the part", "the parent"])
def test_a_retry_lets_the_parent_begin_anew_and_sum_up_anew(database: Database, of: str) -> None:
    conn = fleet(database)
    parent = tasks.create_for_all_nodes(conn, "job", created_by=1)
    made = parts(conn, parent)
    run(conn, "a", made["a"])
    run(conn, "b", made["b"], fail=True)
    assert status(conn, parent) == "failure"
    tasks.retry(conn, made["b"] if of == "the part" else parent)
    row = task(conn, parent)
    assert (row["status"], row["attempt"], row["error"], row["result"]) == ("started", 2, None, None)
    assert [status(conn, made[node]) for node in NODES] == ["success", "fresh"]
    assert column(conn, "select status from task_attempts where task_id = %s", parent) == ["failure"]
    run(conn, "b", made["b"])
    assert status(conn, parent) == "success"
    assert summary(conn, parent) == {"a": "success", "b": "success"}


def test_failures_are_counted_anew_of_parent_and_parts_where_asked(database: Database) -> None:
    conn = fleet(database)
    parent, made = failed(conn)
    counts = "select failure_count from tasks order by id"
    assert column(conn, counts) == [1, 1, 1]
    tasks.retry(conn, parent)
    assert column(conn, counts) == [1, 1, 1]
    for node in NODES:
        run(conn, node, made[node], fail=True)
    tasks.retry(conn, parent, reset_failure_count=True)
    assert column(conn, counts) == [0, 0, 0]


def test_a_run_that_found_no_node_is_made_for_all_that_live_when_it_is_retried(database: Database) -> None:
    conn = database.connect()
    conn.execute("select register_type('job')")
    conn.execute(
        "select put_schedule('all', 'job', '\"x\"', all_nodes => true, max_retries => 3, timeout => '9 s', created_by => 7)"
    )
    id = value(conn, "select trigger_schedule('all')")
    assert status(conn, id) == "failure"
    assert sqlstate(conn, "select retry_task(%s)", id) == "PF003"
    assert status(conn, id) == "failure"
    for node in NODES:
        register(conn, node)
    tasks.retry(conn, id)
    row = task(conn, id)
    assert (row["status"], row["attempt"], row["error"], row["created_by"]) == ("started", 2, None, 7)
    made = parts(conn, id)
    assert list(made) == list(NODES)
    part = task(conn, made["a"])
    assert (part["data"], part["max_retries"], part["timeout"].total_seconds()) == ('"x"', 3, 9)
    for node in NODES:
        run(conn, node, made[node])
    assert status(conn, id) == "success"
    conn.execute("select end_runs()")
    assert column(conn, "select (failures, successes)::text from schedules") == ["(1,1)"]


def test_a_parents_retry_policy_is_that_of_its_parts(database: Database) -> None:
    conn = fleet(database)
    parent = tasks.create_for_all_nodes(conn, "job", created_by=1)
    made = parts(conn, parent)
    run(conn, "a", made["a"])
    conn.execute("select configure_task(%s, 5, '1 s')", [parent])
    assert column(conn, "select max_retries from tasks order by id") == [5, None, 5]


def test_a_part_retried_and_called_off_at_once_is_told_of_by_its_parent(database: Database) -> None:
    conn = fleet(database)
    parent, made = failed(conn)
    with conn.transaction():
        tasks.retry(conn, made["a"])
        conn.execute("select cancel_task(%s)", [made["a"]])
    assert summary(conn, parent) == {"a": "cancelled", "b": "failure"}
    assert status(conn, parent) == "failure"


def test_an_automatic_retry_of_a_part_is_not_its_end(database: Database) -> None:
    conn = fleet(database, ("a",))
    parent = tasks.create_for_all_nodes(conn, "job", created_by=1, max_retries=1)
    part = parts(conn, parent)["a"]
    run(conn, "a", part, fail=True)
    assert (status(conn, part), status(conn, parent)) == ("waiting", "started")


@pytest.mark.parametrize("how", ["left", "lost", "serves the type no more"])
def test_a_part_of_a_node_whose_workers_are_gone_says_so(database: Database, how: str) -> None:
    conn = fleet(database)
    parent = tasks.create_for_all_nodes(conn, "job", created_by=1)
    made = parts(conn, parent)
    run(conn, "a", made["a"])
    claim(conn, worker="worker b")
    if how == "lost":
        conn.execute("update workers set lease_expires_at = now() - interval '1 s' where node = 'b'")
        assert column(conn, "select status from rescue_tasks()") == ["fresh"]
    else:
        conn.execute("select deregister_worker('worker b')")
    if how == "serves the type no more":
        conn.execute("select register_worker('again', 'b', '{tea}', 10, '1 hour', 'test')")
    assert column(conn, "select id from crash_parts()") == []  # it may be a restart
    rows = conn.execute("select id, status, node, type from crash_parts('0')").fetchall()
    assert rows == [(made["b"], "crashed", "b", "job")]
    assert task(conn, made["b"])["error"] == "Node b has no live worker for job any more."
    assert summary(conn, parent) == {"a": "success", "b": "crashed"}
    assert status(conn, parent) == "failure"


def test_a_part_waits_while_its_node_has_another_worker_and_other_targeted_tasks_wait_for_ever(
    database: Database,
) -> None:
    conn = fleet(database)
    conn.execute("select register_worker('twin', 'b', '{job}', 10, '1 hour', 'test')")
    parent = tasks.create_for_all_nodes(conn, "job", created_by=1)
    targeted = tasks.create(conn, "job", created_by=1, node="nowhere")
    conn.execute("select deregister_worker('worker b')")
    assert column(conn, "select id from crash_parts('0')") == []
    assert {status(conn, id) for id in parts(conn, parent).values()} == {"fresh"} == {status(conn, targeted)}


def test_a_part_whose_parent_is_gone_settles_all_the_same(database: Database) -> None:
    conn = fleet(database, ("a",))
    parent = tasks.create_for_all_nodes(conn, "job", created_by=1)
    part = parts(conn, parent)["a"]
    conn.execute("delete from tasks where id = %s", [parent])
    run(conn, "a", part)
    assert status(conn, part) == "success"


@pytest.mark.parametrize("options", ["max_retries => -1", "timeout => '0'"])
def test_arguments_out_of_range_are_refused(database: Database, options: str) -> None:
    conn = fleet(database)
    assert sqlstate(conn, f"select create_for_all_nodes('job', 'x', 1, {options})") == "PF006"
