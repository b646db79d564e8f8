"""One export a task and format, whatever a crash of Postgres took back."""

from __future__ import annotations

from pgfleet import exports, sql
from tests.support.database import Database
from tests.support.fleet import WORKER, claim, column, create, register, status, value

FINISH = "select finish_export(%s, %s, 1, '{}', %s, 1, 'csv', 1, %s)"


def test_a_task_that_is_done_again_after_its_claim_was_lost_has_one_export_that_of_its_holder(
    database: Database,
) -> None:
    conn = database.connect()
    register(conn)
    id = create(conn)
    seen = set()
    for filename in ("first.csv", "second.csv"):
        assert claim(conn) == [id]
        conn.execute(FINISH, [WORKER, id, filename, "0" * 64])
        assert status(conn, id) == "success"
        assert [row["filename"] for row in exports.of_owner(conn, 1)] == [filename]
        seen.add(exports.version_of_owner(conn, 1))
        # As a crash leaves it that took the claim back: the same attempt's number is given once more.
        conn.execute("update tasks set status = 'fresh', worker = null, started_at = null, attempt = 0")
    assert len(seen) == 2, "a poll must see that the list has changed"


def test_two_exports_of_one_task_from_before_become_the_one_its_result_names(empty_database: Database) -> None:
    conn = empty_database.connect()
    conn.execute(sql.text("migrations/0001_fleet.sql"))
    conn.execute(
        "insert into exports (filename, owner_id, task_id, format, bytes, sha256)"
        " select f, 1, t, 'csv', 1, repeat('0', 64)"
        " from (values ('other.csv', 4), ('earlier.csv', 5), ('later.csv', 5)) v(f, t)"
    )
    conn.execute(sql.text("migrations/0002_loses_nothing.sql"))
    assert column(conn, "select filename from exports order by 1") == ["later.csv", "other.csv"]
    assert value(conn, "select count(*) from csv_export") == 2
