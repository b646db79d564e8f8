"""Retention in SQL: what is old enough goes, with its history and exports; what somebody wants again stays."""

from __future__ import annotations

from typing import Any

import pytest

from pgfleet import housekeeping
from pgfleet.errors import InvalidTask
from tests.support.database import Database
from tests.support.fleet import (
    WORKER,
    Blocked,
    Connection,
    claim,
    column,
    create,
    put,
    register,
    rows_read,
    sqlstate,
    status,
)
from tests.support.retention import ALL, DAY, age, walk


@pytest.fixture
def conn(database: Database) -> Connection:
    conn = database.connect()
    register(conn)
    return conn


def ids(conn: Connection) -> list[int]:
    return column(conn, "select id from tasks order by id")


def family(conn: Connection, *parts: str) -> list[int]:
    """A finished task for all nodes, its parts in these statuses; all two days old. The parent is the first."""
    made = [put(conn, "success"), *(put(conn, part) for part in parts)]
    age(conn, made[:1], 2)
    age(conn, made[1:], 2, parent=made[0])
    return made


@pytest.mark.parametrize("old", housekeeping.FINISHED)
def test_a_finished_task_goes_once_its_statuss_term_is_over(conn: Connection, old: str) -> None:
    made = {wanted: put(conn, wanted) for wanted in (*housekeeping.FINISHED, "waiting", "started", "fresh")}
    age(conn, list(made.values()), 2)
    keep = {wanted: DAY if wanted == old else 3 * DAY for wanted in housekeeping.FINISHED}
    assert housekeeping.purgeable(conn, keep) == ({old: 1}, 0)
    assert [step.tasks for step in walk(conn, keep)] == [{old: 1}]
    assert ids(conn) == sorted(id for wanted, id in made.items() if wanted != old)


def test_what_is_kept_for_ever_and_what_is_not_finished_stays_however_old(conn: Connection) -> None:
    made = [put(conn, wanted) for wanted in ("failure", "waiting", "started", "fresh")]
    gone = put(conn, "success")
    age(conn, [*made, gone], 10_000)
    assert [step.tasks for step in walk(conn, {"success": DAY})] == [{"success": 1}]
    assert ids(conn) == made
    assert [step.tasks for step in walk(conn, {})] == [{}]


def test_a_tasks_age_counts_from_its_end(conn: Connection) -> None:
    id = put(conn, "success")
    conn.execute("update tasks set created_at = now() - interval '9 days' where id = %s", [id])
    assert [step.tasks for step in walk(conn, ALL)] == [{}]


@pytest.mark.parametrize("unfinished", ["waiting", "fresh", "started", "nonsense"])
def test_an_unfinished_status_is_refused(conn: Connection, unfinished: str) -> None:
    put(conn, "fresh")
    with pytest.raises(InvalidTask, match="Only finished tasks can be purged"):
        housekeeping.purge_step(conn, {"success": DAY, unfinished: DAY})


def test_history_and_exports_go_with_their_task_and_others_stay(conn: Connection) -> None:
    made = [create(conn), create(conn)]
    assert claim(conn, 2) == made
    for id in made:
        conn.execute("select finish_export(%s, %s, 1, '', %s, 1, 'csv', 1, %s)", [WORKER, id, f"{id}.csv", "0" * 64])
        conn.execute(
            "insert into task_attempts (task_id, attempt, ended_at, status) values (%s, 0, now(), 'lost')", [id]
        )
    age(conn, made[:1], 2)
    assert housekeeping.purgeable(conn, ALL) == ({"success": 1}, 1)
    assert walk(conn, ALL) == [housekeeping.Purged({"success": 1}, [f"{made[0]}.csv"], None)]
    assert column(conn, "select task_id from task_attempts") == made[1:]
    assert column(conn, "select task_id from exports") == made[1:]


def test_the_walk_goes_in_steps_and_ends_where_the_tasks_are_young(conn: Connection) -> None:
    made = [put(conn, "success") for _ in range(9)]
    age(conn, made[:5], 2)
    steps = walk(conn, ALL, quantity=2)
    assert [sum(step.tasks.values()) for step in steps] == [2, 2, 1]
    assert [step.reached for step in steps] == [made[1], made[3], None]
    assert ids(conn) == made[5:]


def test_a_step_reads_its_own_rows_and_no_others(conn: Connection) -> None:
    conn.execute("analyze tasks")  # statistics of an empty table
    conn.execute(
        "insert into tasks (type, status, created_by) select 'job', 'success', 0 from generate_series(1, 20000)"
    )
    conn.execute("update tasks set created_at = now() - interval '9 days', updated_on = now() - interval '9 days'")
    conn.execute("vacuum tasks")  # the versions from before the update
    answer, read = rows_read(conn, "select purged from purge_tasks('{success}', '{1 day}', 0, 100)", [])
    assert answer == [({"success": 100},)]
    assert read < 1500


def test_a_task_that_is_being_retried_is_passed_over_and_then_stays(conn: Connection, database: Database) -> None:
    id, other = put(conn, "failure"), put(conn, "failure")
    age(conn, [id, other], 2)
    retrying = database.connect(autocommit=False)
    retrying.execute("select retry_task(%s)", [id])
    assert [step.tasks for step in walk(conn, ALL)] == [{"failure": 1}]
    retrying.commit()
    assert [step.tasks for step in walk(conn, ALL)] == [{}]
    assert ids(conn) == [id]
    assert status(conn, id) == "fresh"


def test_a_retry_that_comes_during_the_purge_waits_and_learns_that_the_task_is_gone(
    conn: Connection, database: Database
) -> None:
    id = put(conn, "failure")
    age(conn, [id], 2)
    purging, retrying = database.connect(autocommit=False), database.connect()
    assert housekeeping.purge_step(purging, ALL).tasks == {"failure": 1}
    blocked = Blocked(conn, retrying, lambda: sqlstate(retrying, "select retry_task(%s)", id))
    purging.commit()
    assert blocked.result() == "PF002"


def test_a_purge_that_is_undone_has_purged_nothing(conn: Connection, database: Database) -> None:
    id = put(conn, "success")
    age(conn, [id], 2)
    purging = database.connect(autocommit=False)
    assert housekeeping.purge_step(purging, ALL).tasks == {"success": 1}
    purging.rollback()
    assert ids(conn) == [id]


def test_a_retry_that_commits_between_the_look_and_the_lock_saves_the_task(
    conn: Connection, database: Database
) -> None:
    """The look is held up at its second candidate's gate, after it has seen the first as old."""
    first, second = put(conn, "failure"), put(conn, "failure")
    age(conn, [first, second], 2)
    # A gate in the way of the step's own look: a view of its own by the name it looks for, whose rows wait for a lock.
    conn.execute("create schema gated")
    conn.execute(
        "create function gated.pass(id bigint) returns boolean language plpgsql as $$ begin"
        f" if id = {second} then perform pg_advisory_xact_lock(77); end if; return true; end $$"
    )
    conn.execute("create view gated.tasks as select * from public.tasks where gated.pass(id)")
    conn.execute("alter function purgeable_tasks set search_path = gated, public, pg_temp")
    gate, purging = database.connect(), database.connect()
    gate.execute("select pg_advisory_lock(77)")
    step = Blocked(conn, purging, lambda: housekeeping.purge_step(purging, ALL))
    conn.execute("select retry_task(%s)", [first])
    gate.execute("select pg_advisory_unlock(77)")
    assert step.result().tasks == {"failure": 1}
    assert ids(conn) == [first]
    assert status(conn, first) == "fresh"


def test_a_task_for_all_nodes_goes_with_all_of_its_parts(conn: Connection) -> None:
    family(conn, "success", "failure", "crashed")
    assert housekeeping.purgeable(conn, ALL)[0] == {"success": 2, "failure": 1, "crashed": 1}
    assert walk(conn, ALL, quantity=1)[0].tasks == {"success": 2, "failure": 1, "crashed": 1}
    assert ids(conn) == []


@pytest.mark.parametrize("why", ["young", "kept", "unfinished", "retried", "parent"])
def test_a_family_stays_whole_while_one_of_it_stays(conn: Connection, database: Database, why: str) -> None:
    made = family(conn, "success", "failure")
    keep: dict[str, Any] = dict(ALL)
    retrying = database.connect(autocommit=False)
    match why:
        case "young":
            age(conn, made[1:2], 0.5)
        case "kept":
            del keep["failure"]
        case "unfinished":
            conn.execute("select retry_task(%s)", [made[2]])
        case "retried":
            retrying.execute("select retry_task(%s)", [made[2]])
        case "parent":
            age(conn, made[:1], 0.5)
    assert all(step.tasks == {} for step in walk(conn, keep, quantity=1))
    retrying.rollback()
    assert ids(conn) == made


def test_a_part_whose_whole_is_gone_goes_by_itself(conn: Connection) -> None:
    made = family(conn, "success")
    conn.execute("delete from tasks where id = %s", [made[0]])
    assert [step.tasks for step in walk(conn, ALL)] == [{"success": 1}]


def test_the_history_of_workers_goes_once_no_task_that_is_left_can_have_run_there(conn: Connection) -> None:
    age(conn, [put(conn, "failure")], 5)
    conn.execute(
        "insert into worker_history (id, node, started_at, ended_at) values"
        " ('long ago', 'n', now(), now() - interval '7 days'), ('within', 'n', now(), now() - interval '4 days'),"
        " ('alive', 'n', now() - interval '9 days', null)"
    )
    walk(conn, {"failure": 9 * DAY})
    assert column(conn, "select id from worker_history where id <> %s order by 1", WORKER) == ["alive", "within"]
