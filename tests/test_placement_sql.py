"""Who takes what: tasks that name a node, workers that take nothing else, and workers told to take nothing."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from pgfleet import db, errors, tasks, workers
from pgfleet.settings import Settings
from tests.support.database import Database
from tests.support.fleet import OTHER, WORKER, Connection, claim, column, create, sqlstate, status, value

HERE, THERE = "here", "there"


def fleet(database: Database) -> Connection:
    """A worker on each of two nodes."""
    conn = database.connect()
    for worker, node in ((WORKER, HERE), (OTHER, THERE)):
        conn.execute("select register_worker(%s, %s, '{job,tea}', 10, '1 hour', 'test')", [worker, node])
    return conn


def by_ids(conn: Connection, ids: list[int], quantity: int = 9, worker: str = WORKER) -> list[int]:
    return column(conn, "select id from claim_tasks(%s, '{job,tea}', %s, ids => %s)", worker, quantity, ids)


def by_lanes(conn: Connection, worker: str = WORKER) -> list[int]:
    query = (
        "select id from claim_tasks(%s, '{job,tea}', 9, lane_types => '{job,tea}',"
        " lane_priorities => '{0,0}', lane_after => '{0,0}')"
    )
    return column(conn, query, worker)


@pytest.mark.parametrize("types", [("job",), ("job", "tea")], ids=["one type", "several types"])
def test_only_workers_of_its_node_find_a_task_from_the_front(database: Database, types: tuple[str, ...]) -> None:
    conn = fleet(database)
    id = create(conn, node=THERE)
    assert claim(conn, types=types) == []
    assert claim(conn, types=types, worker=OTHER) == [id]


def test_only_workers_of_its_node_take_a_task_by_its_id(database: Database) -> None:
    conn = fleet(database)
    id = create(conn, node=THERE)
    assert by_ids(conn, [id]) == []
    assert by_ids(conn, [id], worker=OTHER) == [id]


def test_lanes_pass_over_what_names_a_node(database: Database) -> None:
    conn = fleet(database)
    create(conn, node=HERE)
    ordinary = create(conn)
    assert by_lanes(conn) == [ordinary]


@pytest.mark.parametrize("types", [("job",), ("job", "tea")], ids=["one type", "several types"])
def test_what_names_the_node_and_what_does_not_are_taken_in_one_order(
    database: Database, types: tuple[str, ...]
) -> None:
    conn = fleet(database)
    old = create(conn)
    targeted = create(conn, node=HERE)
    young = create(conn, types[-1])
    urgent = create(conn, node=HERE, priority=5)
    assert claim(conn, 3, types=types) == [urgent, old, targeted]
    assert claim(conn, 3, types=types) == [young]


def test_notified_ids_are_taken_in_one_order_too(database: Database) -> None:
    conn = fleet(database)
    old, targeted, urgent = create(conn), create(conn, node=HERE), create(conn, node=HERE, priority=5)
    assert by_ids(conn, [old, targeted, urgent], 2) == [urgent, old]


def test_two_claims_at_once_never_take_the_same_targeted_task(database: Database) -> None:
    conn, second = fleet(database), database.connect()
    conn.execute("select register_worker('twin', %s, '{job}', 10, '1 hour', 'test')", [HERE])
    ids = [create(conn, node=HERE) for _ in range(4)]
    with conn.transaction():  # the gate: the first claim stays uncommitted while the second one looks
        assert claim(conn, 2) == ids[:2]
        assert claim(second, 4, worker="twin") == ids[2:]


def test_a_worker_for_targeted_tasks_only_leaves_all_others_alone(database: Database) -> None:
    conn = fleet(database)
    conn.execute(
        "select register_worker('aimed', %s, '{job,tea}', 10, '1 hour', 'test', only_targeted => true)", [HERE]
    )
    ordinary, elsewhere = create(conn), create(conn, node=THERE)
    assert claim(conn, 9, worker="aimed") == by_ids(conn, [ordinary, elsewhere], worker="aimed") == []
    assert by_lanes(conn, worker="aimed") == []
    mine, also_mine = create(conn, node=HERE), create(conn, node=HERE)
    assert claim(conn, 1, worker="aimed") == [mine]
    assert by_ids(conn, [also_mine], worker="aimed") == [also_mine]


@pytest.mark.parametrize("orders", ["pause", "drain"])
def test_a_worker_told_to_take_nothing_claims_nothing_until_told_to_work(
    database: Database, orders: workers.Orders
) -> None:
    conn = fleet(database)
    ids = [create(conn), create(conn, node=HERE)]
    workers.order_worker(conn, WORKER, orders)
    assert claim(conn, 9) == by_ids(conn, ids) == by_lanes(conn) == []
    assert [status(conn, id) for id in ids] == ["fresh", "fresh"]
    workers.order_worker(conn, WORKER, "work")
    assert claim(conn, 9) == ids


def test_an_order_is_told_at_once_to_the_worker_it_is_for(database: Database) -> None:
    conn, ear = fleet(database), database.connect()
    ear.execute("listen worker_orders")
    workers.order_worker(conn, OTHER, "pause")
    ear.execute("select 1")
    assert [notice.payload for notice in ear.notifies(timeout=0)] == [OTHER]
    listed = {worker["id"]: worker["orders"] for worker in workers.list_workers(conn)}
    assert listed == {WORKER: "work", OTHER: "pause"}


def test_orders_for_a_worker_that_is_gone_or_in_other_words_are_refused(database: Database) -> None:
    conn = fleet(database)
    conn.execute("update workers set lost_at = now() where id = %s", [OTHER])
    for worker in ("nobody", OTHER):
        with pytest.raises(errors.UnknownWorker, match=worker):
            workers.order_worker(conn, worker, "work")
    assert sqlstate(conn, "select order_worker(%s, 'dance')", WORKER) == "PF006"
    assert sqlstate(conn, "select order_worker(%s, null)", WORKER) == "PF006"


def test_every_way_to_create_takes_a_node_and_a_timeout(database: Database, settings: Settings) -> None:
    conn = fleet(database)
    inserted = tasks.Wanted("job", None, 1, any_type=True, node=HERE, timeout=90.0)
    aimed: dict[str, Any] = {"created_by": 1, "node": HERE}
    timeout = timedelta(seconds=90)
    made = [
        tasks.create(conn, "job", **aimed, timeout=timeout),
        tasks.insert(conn, "job", **aimed, timeout=timeout)[0],
        tasks.insert(conn, "job", **aimed, timeout=timeout, unique_key="k")[0],
        *tasks.create_many(conn, "job", ["a", "b"], **aimed, timeout=timeout),
        tasks.Sent(db.connect(settings, "a test"), [inserted]).inserted().answers[0][0],  # type: ignore[index]
    ]
    assert claim(conn, 9, worker=OTHER) == []
    rows = conn.execute("select id, timeout from claim_tasks(%s, '{job}', 9)", [WORKER]).fetchall()
    assert rows == [(id, 90.0) for id in made]


@pytest.mark.parametrize("options", [{"timeout": "0"}, {"timeout": "-1 s"}, {"timeout": "400 days"}, {"node": ""}])
def test_a_timeout_or_a_node_that_can_not_be_is_refused(database: Database, options: dict[str, str]) -> None:
    conn = fleet(database)
    name, given = next(iter(options.items()))
    assert sqlstate(conn, f"select create_task('job', 'x', 1, {name} => %s)", given) == "PF006"
    assert sqlstate(conn, f"select create_tasks('job', '{{x}}', 1, {name} => %s)", given) == "PF006"
    assert value(conn, "select count(*) from tasks") == 0


def test_a_registered_worker_enters_the_history_of_workers(database: Database) -> None:
    conn = fleet(database)
    assert column(conn, "select node from worker_history order by node") == [HERE, THERE]
    conn.execute("delete from workers where id = %s", [WORKER])
    assert sqlstate(conn, "select register_worker(%s, 'n', '{job}', 1, '1 hour', '1')", WORKER) == "PF005"
