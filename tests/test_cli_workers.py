"""``pgfleet workers``: who is meant by a name, what they are told, and waiting for their end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.cli import Run, answered
from tests.support.database import Database
from tests.support.fleet import OTHER, WORKER, claim, create, lapse, register, value

THIRD = "walter2:33333333-3333-4333-8333-333333333333"


def orders(conn: Any) -> dict[str, str]:
    return dict(conn.execute("select id, orders from workers").fetchall())


@pytest.fixture
def three(database: Database) -> Any:
    """A connection to a fleet of WORKER, OTHER and THIRD."""
    conn = database.connect()
    for worker in (WORKER, OTHER, THIRD):
        register(conn, worker)
    return conn


@pytest.mark.parametrize(
    ("verb", "order", "said"),
    [
        ("pause", "pause", "takes no more tasks"),
        ("resume", "work", "takes tasks again"),
        ("drain", "drain", "finishes what it has, and ends"),
    ],
)
def test_a_worker_is_told_and_the_others_are_not(run: Run, three: Any, verb: str, order: str, said: str) -> None:
    three.execute("update workers set orders = 'pause'")
    result = run("workers", verb, OTHER)
    assert (result.exit_code, result.stdout) == (0, f"Worker {OTHER} {said}.\n")
    assert orders(three) == {WORKER: "pause", OTHER: order, THIRD: "pause"}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        (WORKER, WORKER),
        ("walter", WORKER),  # a nickname, though another's id begins like it
        ("walter2", THIRD),
        ("walter2:3", THIRD),
        ("ol", OTHER),
        ("2222", OTHER),
        (OTHER.partition(":")[2], OTHER),
    ],
)
def test_a_worker_is_meant_by_id_nickname_or_the_beginning_of_either(
    run: Run, three: Any, name: str, meant: str
) -> None:
    assert [row["id"] for row in answered(run("workers", "pause", name, "--json"))] == [meant]
    assert [id for id, order in orders(three).items() if order == "pause"] == [meant]


@pytest.mark.parametrize(
    ("names", "code", "said"),
    [
        (["wal"], 1, "Error: 'wal' can mean 2 workers."),
        (["ol", "nobody"], 1, "Error: No live worker is 'nobody'.\nHint: See who is at work: pgfleet workers list."),
        ([""], 2, "Say which workers"),
        ([], 2, "Say which workers"),
        (["ol", "--all"], 2, "Say which workers"),
    ],
)
def test_unless_every_name_means_one_worker_nobody_is_told(
    run: Run, three: Any, names: list[str], code: int, said: str
) -> None:
    result = run("workers", "drain", *names)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr
    assert set(orders(three).values()) == {"work"}


def test_two_workers_of_one_nickname_are_named_by_their_ids(run: Run, three: Any) -> None:
    twin = register(three, "olga:44444444-4444-4444-8444-444444444444")
    result = run("workers", "pause", "olga")
    assert result.exit_code == 1
    assert OTHER in result.stderr
    assert twin in result.stderr
    assert run("workers", "pause", "4444").exit_code == 0


def test_all_are_told_but_those_that_are_lost(run: Run, three: Any) -> None:
    lapse(three, OTHER)
    assert run("workers", "pause", "--all").exit_code == 0
    assert orders(three) == {WORKER: "pause", OTHER: "work", THIRD: "pause"}
    lost = run("workers", "pause", OTHER)
    assert (lost.exit_code, "is lost" in lost.stderr) == (1, True)


def test_where_nobody_is_alive_there_is_nobody_to_drain(run: Run, database: Database) -> None:
    result = run("workers", "drain", "--all", "--wait")
    assert (result.exit_code, result.stderr) == (0, "No worker is alive.\n")


def test_the_list_shows_what_they_do_and_hold(run: Run, three: Any) -> None:
    create(three)
    claim(three)
    run("workers", "pause", "olga")
    run("workers", "drain", "walter2")
    rows = answered(run("workers", "list", "--json"))
    assert [(row["id"], row["status"], row["running"]) for row in rows] == [
        (WORKER, "live", 1), (OTHER, "paused", 0), (THIRD, "draining", 0)
    ]  # fmt: skip


def test_draining_can_be_waited_for(run: Run, three: Any, wait_until: Callable[..., Any]) -> None:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(run("workers", "drain", "walter", "olga", "--wait")))
    thread.start()
    wait_until(lambda: list(orders(three).values()).count("drain") == 2, what="both told")
    three.execute("select deregister_worker(%s)", [WORKER])
    looked = (
        "select count(*) from pg_stat_activity"
        " where application_name = 'pgfleet workers drain' and datname = current_database()"
    )
    wait_until(lambda: value(three, looked), what="it waits for the other")
    assert not results
    three.execute("select deregister_worker(%s)", [OTHER])
    thread.join(40)
    assert results[0].exit_code == 0
    assert results[0].stdout.splitlines()[-2:] == [f"Worker {WORKER} has ended.", f"Worker {OTHER} has ended."]


def test_a_worker_lost_while_it_drains_is_no_success(run: Run, three: Any, wait_until: Callable[..., Any]) -> None:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(run("workers", "drain", "walter", "--wait")))
    thread.start()
    wait_until(lambda: "drain" in orders(three).values(), what="it is told")
    lapse(three)
    thread.join(40)
    assert results[0].exit_code == 1
    assert "1 of 1 workers were lost" in results[0].stderr


def test_waiting_for_a_drain_has_an_end_where_asked(run: Run, three: Any) -> None:
    result = run("workers", "drain", "walter", "--max-wait", "0.1")
    assert result.exit_code == 1
    assert "1 of 1 workers had not ended after 0.1 s." in result.stderr
    assert orders(three)[WORKER] == "drain"
