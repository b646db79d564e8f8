"""Claiming: the order, the three ways to look, and that no two workers ever hold one task."""

from __future__ import annotations

import pytest

from tests.support.database import Database
from tests.support.fleet import (
    OTHER,
    WORKER,
    Blocked,
    Connection,
    claim,
    column,
    create,
    lapse,
    register,
    rows_read,
    sqlstate,
    status,
    task,
    value,
)

#: How claim_tasks can look for tasks of `types`; each finds all of them when nothing is behind a watermark.
WAYS = {
    "front, one type": (("job",), "select id from claim_tasks(%(worker)s, '{job}', %(n)s)"),
    "front, several types": (("job", "tea"), "select id from claim_tasks(%(worker)s, '{job,tea,none}', %(n)s)"),
    "by ids": (
        ("job", "tea"),
        "select id from claim_tasks(%(worker)s, '{job,tea}', %(n)s, ids => array(select id from tasks))",
    ),
    "one lane": (
        ("job",),
        "select id from claim_tasks(%(worker)s, '{job}', %(n)s,"
        " lane_types => '{job}', lane_priorities => '{0}', lane_after => '{0}')",
    ),
    "several lanes": (
        ("job", "tea"),
        "select id from claim_tasks(%(worker)s, '{job,tea}', %(n)s,"
        " lane_types => '{job,tea,job}', lane_priorities => '{0,0,9}', lane_after => '{0,0,0}')",
    ),
    "lanes and ids": (
        ("job", "tea"),
        "select id from claim_tasks(%(worker)s, '{job,tea}', %(n)s, ids => array(select id from tasks),"
        " lane_types => '{job}', lane_priorities => '{0}', lane_after => '{0}')",
    ),
}


def fleet(database: Database) -> tuple[Connection, Connection]:
    """Two sessions, each of a worker of its own that takes jobs and makes tea."""
    first, second = database.connect(), database.connect()
    register(first, WORKER, ["job", "tea"])
    register(second, OTHER, ["job", "tea"])
    second.execute("set lock_timeout = '10s'")  # a claim that waits for another's lock fails, rather than hangs
    return first, second


@pytest.mark.parametrize("way", WAYS)
def test_two_claims_at_once_never_take_the_same_task(database: Database, way: str) -> None:
    types, query = WAYS[way]
    first, second = fleet(database)
    ids = [create(first, types[n % len(types)]) for n in range(6)]
    with first.transaction():  # the gate: the first claim stays uncommitted while the second one looks
        mine = {row[0] for row in first.execute(query, {"worker": WORKER, "n": 2})}
        others = {row[0] for row in second.execute(query, {"worker": OTHER, "n": 6})}
    assert mine == set(ids[:2])
    assert others == set(ids[2:])
    assert {task(first, id)["worker"] for id in mine} == {WORKER}
    assert {task(first, id)["worker"] for id in others} == {OTHER}


@pytest.mark.parametrize("way", WAYS)
def test_a_claim_that_is_rolled_back_leaves_the_tasks_to_others(database: Database, way: str) -> None:
    types, query = WAYS[way]
    first, second = fleet(database)
    id = create(first, types[0])
    with first.transaction(force_rollback=True):
        assert len(first.execute(query, {"worker": WORKER, "n": 1}).fetchall()) == 1
    assert [row[0] for row in second.execute(query, {"worker": OTHER, "n": 1})] == [id]
    assert task(first, id)["attempt"] == 1


@pytest.mark.parametrize("way", WAYS)
def test_a_claim_takes_no_more_than_its_quantity(database: Database, way: str) -> None:
    types, query = WAYS[way]
    first, _ = fleet(database)
    ids = [create(first, types[n % len(types)]) for n in range(5)]
    assert {row[0] for row in first.execute(query, {"worker": WORKER, "n": 3})} == set(ids[:3])
    assert [row[0] for row in first.execute(query, {"worker": WORKER, "n": 0})] == []


def test_the_urgent_come_first_then_the_oldest_over_all_types(database: Database) -> None:
    conn, _ = fleet(database)
    late = create(conn, "job", priority=-5)
    old_tea, old_job = create(conn, "tea"), create(conn, "job")
    urgent_job, urgent_tea = create(conn, "job", priority=9), create(conn, "tea", priority=9)
    order = [urgent_job, urgent_tea, old_tea, old_job, late]
    taken = [claim(conn, 1, types=["job", "tea"])[0] for _ in order]
    assert taken == order


def test_a_batch_over_several_types_is_cut_at_the_right_place(database: Database) -> None:
    conn, _ = fleet(database)
    for _ in range(3):
        create(conn, "job")
    urgent = [create(conn, "tea", priority=5) for _ in range(2)]
    oldest = value(conn, "select min(id) from tasks")
    assert claim(conn, 3, types=["job", "tea"]) == [*urgent, oldest]


def test_a_lane_finds_only_what_lies_behind_its_watermark(database: Database) -> None:
    conn, _ = fleet(database)
    before, after = create(conn), create(conn)
    other_priority = create(conn, priority=1)
    query = (
        "select id from claim_tasks(%s, '{job}', 9, lane_types => '{job}', lane_priorities => '{0}', lane_after => %s)"
    )
    assert column(conn, query, WORKER, [before]) == [after]
    assert [status(conn, id) for id in (before, other_priority)] == ["fresh", "fresh"]


def test_several_lanes_share_one_quantity_by_urgency(database: Database) -> None:
    conn, _ = fleet(database)
    plain = [create(conn, "job") for _ in range(3)]
    urgent = create(conn, "tea", priority=9)
    query = (
        "select id from claim_tasks(%s, '{job,tea}', 2, lane_types => '{job,tea}',"
        " lane_priorities => '{0,9}', lane_after => '{0,0}')"
    )
    assert column(conn, query, WORKER) == [urgent, plain[0]]
    assert column(conn, query, WORKER) == plain[1:]


#: A claim by ids and behind the watermark of `job`'s lane of priority 0.
BOTH = "select id from claim_tasks(%s, %s, %s, ids => %s, lane_types => '{job}', lane_priorities => '{0}', lane_after => %s)"


def test_lanes_and_ids_are_claimed_in_one_order(database: Database) -> None:
    conn, _ = fleet(database)
    passed = create(conn)
    mark = create(conn)
    low, behind, last = create(conn, priority=-1), create(conn), create(conn)
    urgent, near, far = create(conn, "tea", priority=9), create(conn, node="node"), create(conn, node="elsewhere")
    ids = [low, far, near, urgent, passed, passed, behind, 404]
    assert column(conn, BOTH, WORKER, ["job", "tea"], 3, ids, [mark]) == [urgent, passed, behind]
    assert column(conn, BOTH, WORKER, ["job", "tea"], 9, ids, [mark]) == [last, near, low]
    assert [status(conn, id) for id in (mark, far)] == ["fresh", "fresh"]


def test_ids_that_another_is_claiming_leave_their_places_to_others(database: Database) -> None:
    first, second = fleet(database)
    mark, behind = create(first), create(first)
    urgent = [create(first, "tea", priority=9) for _ in range(4)]
    with first.transaction():
        assert claim(first, 2, types=["tea"]) == urgent[:2]
        assert column(second, BOTH, OTHER, ["job", "tea"], 2, urgent, [mark]) == urgent[2:]
    assert column(second, BOTH, OTHER, ["job", "tea"], 2, urgent, [mark]) == [behind]


def test_ids_are_left_to_their_lane_where_it_leads_to_them(database: Database) -> None:
    first, second = fleet(database)
    ids = [create(first) for _ in range(4)]
    with first.transaction():
        assert column(first, BOTH, WORKER, ["job"], 2, ids, [0]) == ids[:2]
        assert column(second, BOTH, OTHER, ["job"], 2, ids, [0]) == ids[2:]


def test_a_worker_that_takes_only_what_names_its_node_gets_that_of_lanes_and_ids(database: Database) -> None:
    conn, _ = fleet(database)
    conn.execute("update workers set only_targeted = true where id = %s", [WORKER])
    plain, near = create(conn), create(conn, node="node")
    assert column(conn, BOTH, WORKER, ["job"], 9, [plain, near], [0]) == [near]


def test_a_limit_counts_over_lanes_and_ids_together(database: Database) -> None:
    conn, _ = fleet(database)
    conn.execute("select configure_type('job', max_running => 3)")
    passed, mark, behind = (create(conn) for _ in range(3))
    urgent = [create(conn, priority=9) for _ in range(2)]
    free = create(conn, "tea")
    ids = [passed, *urgent, free]
    assert column(conn, BOTH, WORKER, ["job", "tea"], 9, ids, [mark]) == [*urgent, passed, free]
    assert column(conn, BOTH, WORKER, ["job", "tea"], 9, ids, [mark]) == []
    conn.execute("select configure_type('job', max_running => 4)")
    assert column(conn, BOTH, WORKER, ["job", "tea"], 9, ids, [mark]) == [behind]


def test_ids_of_other_types_or_other_statuses_are_left_alone(database: Database) -> None:
    conn, _ = fleet(database)
    job, tea, cancelled = create(conn, "job"), create(conn, "tea"), create(conn, "job")
    conn.execute("select cancel_task(%s)", [cancelled])
    query = "select id from claim_tasks(%s, '{job}', 9, ids => %s)"
    assert column(conn, query, WORKER, [tea, job, cancelled, 404, job]) == [job]
    assert status(conn, tea) == "fresh"


@pytest.mark.parametrize("orders", ["pause", "drain"])
def test_an_order_to_take_nothing_waits_for_the_claim_under_way(database: Database, orders: str) -> None:
    first, second = fleet(database)
    ids = [create(first) for _ in range(3)]
    order = "select order_worker(%s, %s)"
    with first.transaction():
        assert claim(first, 1) == ids[:1]
        second.execute(order, [OTHER, orders])  # of another
        told = Blocked(database.connect(), second, lambda: second.execute(order, [WORKER, orders]))
    told.result()
    assert claim(first, 9) == []
    second.execute(order, [WORKER, "work"])
    assert claim(first, 9) == ids[1:]


def test_an_order_is_given_up_where_a_claim_stays_open(database: Database) -> None:
    first, second = fleet(database)
    second.execute("alter function order_worker set lock_timeout = '50ms'")
    create(first)
    with first.transaction():
        claim(first)
        assert sqlstate(second, "select order_worker(%s, 'pause')", WORKER) == "55P03"
        second.execute("select order_worker(%s, 'work')", [WORKER])


def test_a_claim_hands_over_all_that_a_handler_needs(database: Database) -> None:
    conn, _ = fleet(database)
    id = create(conn, priority=4, timeout="90.5 seconds")
    row = conn.execute("select * from claim_tasks(%s, '{job}', 1)", [WORKER]).fetchone()
    assert row == (id, "job", "data", 1, 1, 4, 0, 90.5, None)


@pytest.mark.parametrize("state", ["unknown", "lapsed", "lost"])
def test_a_worker_without_a_lease_can_claim_nothing(database: Database, state: str) -> None:
    conn, _ = fleet(database)
    id = create(conn)
    if state == "lapsed":
        lapse(conn)
    if state == "lost":
        conn.execute("update workers set lost_at = now()")
    worker = "nobody" if state == "unknown" else WORKER
    assert sqlstate(conn, "select claim_tasks(%s, '{job}', 1)", worker) == "PF005"
    assert status(conn, id) == "fresh"


def test_a_cancel_that_meets_a_claim_waits_for_it_and_becomes_a_request(database: Database) -> None:
    first, second = fleet(database)
    id = create(first)
    with first.transaction():
        claim(first)
        cancel = Blocked(database.connect(), second, lambda: value(second, "select cancel_task(%s)", id))
    assert cancel.result() == "started"
    assert status(first, id) == "started"
    assert task(first, id)["cancel_requested_at"] is not None


def test_a_claim_passes_over_a_task_that_is_being_cancelled(database: Database) -> None:
    first, second = fleet(database)
    cancelled, free = create(first), create(first)
    with first.transaction():
        first.execute("select cancel_task(%s)", [cancelled])
        assert claim(second, 2, worker=OTHER) == [free]
    assert status(first, cancelled) == "cancelled"


PINNED = ("claim_tasks", "finish_tasks", "promote_tasks", "release_tasks", "rescue_tasks")


@pytest.mark.parametrize("function", PINNED)
def test_the_plans_of_batch_functions_are_pinned(database: Database, function: str) -> None:
    given = value(database.connect(), "select proconfig from pg_proc where proname = %s", function)
    assert {"enable_seqscan=off", "enable_hashjoin=off", "enable_mergejoin=off", "enable_bitmapscan=off"} <= set(given)
    assert "plan_cache_mode=force_generic_plan" in given


EMPTY_LANE = (
    "select id from claim_tasks(%(worker)s, '{job}', %(n)s,"
    " lane_types => '{job}', lane_priorities => '{9}', lane_after => '{0}')"
)


@pytest.mark.parametrize("analysed", ["before any task", "with the tasks", "never"])
def test_claim_and_settle_read_only_what_they_take_whatever_the_statistics_say(
    database: Database, analysed: str
) -> None:
    depth, batch = 20_000, 100
    conn = database.connect()
    register(conn, WORKER, ["job", "tea"])
    conn.execute("alter table tasks set (autovacuum_enabled = off)")
    if analysed == "before any task":
        conn.execute("analyze tasks")
    conn.execute(
        "insert into tasks (type, created_by)"
        " select (array['job', 'tea'])[1 + n %% 2], 1 from generate_series(1, %s) n",
        [depth],
    )
    if analysed == "with the tasks":
        conn.execute("analyze tasks")
    for way, (_, query) in {**WAYS, "an empty lane": ((), EMPTY_LANE)}.items():
        wanted = 0 if way == "an empty lane" else batch
        query = query.replace("array(select id from tasks)", "array(select generate_series(10001, 10100))")
        held, read = rows_read(conn, query.replace("select id", "select id, attempt"), {"worker": WORKER, "n": batch})
        assert len(held) == wanted, way
        assert read <= 5 * batch, way
        for half, settle, looks in (
            (held[:50], "finish_tasks(%s, %s, %s, null)", 1),
            # Locked, updated, seen by the history's foreign key, and looked at for a node whose workers are to hear of it.
            (held[50:], "release_tasks(%s, %s, %s)", 4),
        ):
            ids, attempts = [row[0] for row in half], [row[1] for row in half]
            _, read = rows_read(conn, f"select {settle}", [WORKER, ids, attempts])
            assert read == looks * len(half), settle


def test_no_task_starts_before_it_was_created(database: Database) -> None:
    first, second = fleet(database)
    with first.transaction():
        first.execute("select now()")  # it has begun; the task comes before it looks
        id = create(second)
        assert claim(first) == [id]
    row = task(first, id)
    assert row["created_at"] <= row["started_at"] <= row["updated_on"]
