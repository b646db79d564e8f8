"""create_many: the same by one statement and by COPY; what a caller's connection may be like."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar

import psycopg
import pytest
from psycopg.rows import dict_row

from pgfleet import bulk, errors, schedules, tasks
from tests.support.database import Database
from tests.support.fleet import column, heard, listener, register, task, value

SOME = [
    None,
    "",
    "a\tb\nc\\d\\.",
    '"quoted", {braced}',
    "Ἀθῆναι 書 📚",
    {"n": 1, "s": "é"},
    [1.5, None],
    7,
    "NULL",
    "\\N",
]
STORED = [*SOME[:5], '{"n": 1, "s": "é"}', "[1.5, null]", "7", "NULL", "\\N"]
FEW, MANY = len(SOME), bulk.COPIED

amounts = pytest.mark.parametrize("amount", [FEW, MANY], ids=["statement", "copy"])


class Watched(psycopg.Cursor[Any]):
    """A cursor that tells its copies."""

    copies: ClassVar[list[object]] = []

    def copy(self, statement: Any, *args: Any, **kw: Any) -> Any:
        self.copies.append(self.connection)
        return super().copy(statement, *args, **kw)


def many(amount: int, of: list[Any] = SOME) -> list[Any]:
    return (of * (amount // len(of) + 1))[:amount]


@amounts
def test_what_is_created_is_what_was_given_in_its_order(database: Database, amount: int) -> None:
    conn, ear = database.connect(cursor_factory=Watched), listener(database)
    register(conn)
    more: dict[str, Any] = {"priority": -3, "timeout": timedelta(minutes=2), "node": "alexandria"}
    ids = tasks.create_many(conn, "job", iter(many(amount)), created_by=7, **more)
    assert (conn in Watched.copies) == (amount == MANY)
    assert ids == sorted(set(ids)) == column(conn, "select id from tasks order by id")
    assert column(conn, "select data from tasks order by id") == many(amount, STORED)
    first, last = task(conn, ids[0]), task(conn, ids[-1])
    more |= {"type": "job", "created_by": 7, "status": "fresh", "attempt": 0, "worker": None}
    for name, wanted in more.items():
        assert first[name] == last[name] == wanted, name
    assert set(heard(ear)) <= set(ids[:64])
    assert tasks.create(conn, "job", created_by=7) == ids[-1] + 1


@amounts
def test_a_sleeping_fleet_is_told_with_the_commit(database: Database, amount: int) -> None:
    conn, ear = database.connect(autocommit=False), listener(database)
    register(database.connect())
    ids = tasks.create_many(conn, "job", [None] * amount, created_by=1)
    assert heard(ear) == [] == column(database.connect(), "select id from tasks")
    conn.commit()
    assert heard(ear) == ids[:64]


@amounts
@pytest.mark.parametrize("bad", [object(), "\ud800"], ids=["no JSON", "surrogate"])
def test_one_bad_item_leaves_nothing_behind_and_the_callers_transaction_whole(
    database: Database, amount: int, bad: Any
) -> None:
    register(database.connect())
    for conn in (database.connect(), database.connect(autocommit=False)):
        mine = tasks.create(conn, "job", created_by=1)
        with pytest.raises((TypeError, UnicodeEncodeError)):
            tasks.create_many(conn, "job", [*many(amount), bad], created_by=1)
        assert column(conn, "select id from tasks") == [mine]
        conn.execute("delete from tasks")
        conn.commit()


@amounts
def test_a_text_that_postgres_can_not_hold_leaves_nothing_behind(database: Database, amount: int) -> None:
    conn = database.connect()
    register(conn)
    with pytest.raises(psycopg.DataError):
        tasks.create_many(conn, "job", [*many(amount), "\0"], created_by=1)
    assert column(conn, "select id from tasks") == []


@amounts
def test_what_no_task_can_have_is_refused(database: Database, amount: int) -> None:
    conn = database.connect()
    register(conn)
    items: list[Any] = [None] * amount
    with pytest.raises(errors.UnknownType):
        tasks.create_many(conn, "nonesuch", items, created_by=1)
    with pytest.raises(errors.InvalidTask):
        tasks.create_many(conn, "job", items, created_by=None)  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidTask):
        tasks.create_many(conn, "job", items, created_by=1, node="")
    assert column(conn, "select id from tasks") == []


@amounts
def test_the_transaction_is_the_callers(database: Database, amount: int) -> None:
    register(database.connect())
    conn = database.connect(autocommit=False)
    tasks.create_many(conn, "job", [None] * amount, created_by=1)
    conn.rollback()
    with conn.transaction():
        kept = tasks.create_many(conn, "job", [None] * amount, created_by=1)
    with database.connect() as own, own.transaction():
        tasks.create_many(own, "job", [None] * amount, created_by=1)
        raise psycopg.Rollback
    assert column(database.connect(), "select id from tasks order by id") == kept


def test_a_pipeline_takes_many_too(database: Database) -> None:
    conn = database.connect()
    register(conn)
    with conn.pipeline():
        ids = tasks.create_many(conn, "job", [None] * MANY, created_by=1)
    assert len(set(ids)) == MANY == value(conn, "select count(*) from tasks")


def test_row_level_security_is_no_obstacle(database: Database) -> None:
    owner = database.connect()
    register(owner)
    owner.execute("alter table tasks enable row level security; alter table tasks force row level security")
    owner.execute("create policy own on tasks using (created_by = 7)")
    with psycopg.connect(database.url, autocommit=True) as conn:
        role = f"{conn.info.dbname}_tenant"
        conn.execute(f"create role {role}")  # type: ignore[arg-type]
        conn.execute(f"grant all on all tables in schema public to {role}")  # type: ignore[arg-type]
        conn.execute(f"grant all on all sequences in schema public to {role}")  # type: ignore[arg-type]
        try:
            conn.execute(f"set role {role}")  # type: ignore[arg-type]
            assert len(tasks.create_many(conn, "job", [None] * MANY, created_by=7)) == MANY
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                tasks.create_many(conn, "job", [None] * MANY, created_by=8)
        finally:
            conn.execute("reset role")
            conn.execute(f"drop owned by {role}; drop role {role}")  # type: ignore[arg-type]


@amounts
def test_an_applications_connection_may_have_rows_of_its_own(database: Database, amount: int) -> None:
    register(database.connect())
    conn = database.connect(row_factory=dict_row)
    ids = tasks.create_many(conn, "job", [None] * amount, created_by=1)
    ids.append(tasks.create(conn, "job", created_by=1))
    id, created = tasks.insert(conn, "job", created_by=1)
    assert created
    assert tasks.get(conn, id)["status"] == "fresh"
    assert tasks.cancel(conn, id)
    tasks.retry(conn, id)
    assert tasks.find(conn).total == len(ids) + 1
    schedules.put(conn, schedules.Schedule("s", "job", (schedules.Trigger.on("e"),), created_by=1))
    assert schedules.trigger(conn, "s")
    assert schedules.get(conn, "s").triggers[0].event == "e"
    assert schedules.emit(conn, "e") == 1


def test_a_schedule_is_put_in_the_callers_transaction(database: Database) -> None:
    register(database.connect())
    conn = database.connect(autocommit=False)
    wanted = schedules.Schedule("s", "job", (schedules.Trigger.on("e"),), created_by=1)
    assert schedules.put(conn, wanted) == "created"
    conn.rollback()
    assert schedules.put(conn, wanted) == "created"
    conn.commit()
    assert schedules.put(conn, wanted) == "unchanged"
