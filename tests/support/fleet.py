"""Words for tests of the SQL functions: workers, tasks in any status, and what a second session sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import psycopg
from psycopg.rows import dict_row

from pgfleet import tasks
from tests.support.database import Database
from tests.support.waiting import wait_until

Connection = psycopg.Connection[Any]
T = TypeVar("T")

WORKER = "walter:11111111-1111-4111-8111-111111111111"
OTHER = "olga:22222222-2222-4222-8222-222222222222"


def value(conn: Connection, query: str, *args: Any) -> Any:
    """The first column of the first row."""
    row = conn.execute(query, args).fetchone()
    return row[0] if row else None


def column(conn: Connection, query: str, *args: Any) -> list[Any]:
    """The first column of every row."""
    return [row[0] for row in conn.execute(query, args)]


def register(conn: Connection, worker: str = WORKER, types: Sequence[str] = ("job",), lease: str = "1 hour") -> str:
    """A live worker of those types; answers its id."""
    conn.execute("select register_worker(%s, 'node', %s, 10, %s, 'test')", [worker, list(types), lease])
    return worker


def lapse(conn: Connection, worker: str = WORKER) -> None:
    """Let the worker's lease have run out a second ago."""
    conn.execute("update workers set lease_expires_at = now() - interval '1 second' where id = %s", [worker])


def create(conn: Connection, type: str = "job", **options: Any) -> int:
    """A task by create_task(); options are its named arguments."""
    named = "".join(f", {name} => %({name})s" for name in options)
    query = f"select create_task(%(type)s, 'data', 1{named})"
    return int(conn.execute(query, {"type": type, **options}).fetchone()[0])  # type: ignore[index]


def claim(conn: Connection, quantity: int = 1, *, worker: str = WORKER, types: Sequence[str] = ("job",)) -> list[int]:
    """Claim from the front; answers the ids in the order of the rows' urgency."""
    return column(conn, "select id from claim_tasks(%s, %s, %s)", worker, list(types), quantity)


def task(conn: Connection, id: int) -> dict[str, Any]:
    """The task's row."""
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute("select * from tasks where id = %s", [id]).fetchone()
    assert row is not None
    return row


def status(conn: Connection, id: int) -> str:
    return str(task(conn, id)["status"])


def executions(conn: Connection, id: int) -> list[dict[str, Any]]:
    """The task's attempts, the earliest first, as operators are told of them."""
    return tasks.executions(conn, id).rows[::-1]


def put(conn: Connection, wanted: str, **options: Any) -> int:
    """A task of type ``job`` in the status ``wanted``, brought there by the functions; WORKER holds or held it."""
    if wanted == "waiting":
        return create(conn, run_at="2999-01-01", **options)
    id = create(conn, **options)
    if wanted in ("started", "success", "failure", "crashed"):
        assert column(conn, "select id from claim_tasks(%s, '{job}', 1, ids => %s)", WORKER, [id]) == [id]
    match wanted:
        case "success":
            conn.execute("select finish_tasks(%s, %s, '{1}', '{done}')", [WORKER, [id]])
        case "failure":
            conn.execute("select fail_task(%s, %s, 1, 'broke', 'trace', give_up => true)", [WORKER, id])
        case "crashed":
            # Three lost workers would do it too: test_rescue_sql.py shows that.
            conn.execute("update tasks set status = 'crashed', crash_count = 3, updated_on = now() where id = %s", [id])
        case "cancelled":
            conn.execute("select cancel_task(%s)", [id])
    assert status(conn, id) == wanted
    return id


def sqlstate(conn: Connection, query: str, *args: Any) -> str | None:
    """The SQLSTATE ``query`` is refused with; None where it is not."""
    try:
        conn.execute(query, args)
    except psycopg.Error as error:
        return error.sqlstate
    return None


def listener(database: Database) -> Connection:
    """A connection that listens as a worker does; see :func:`heard`."""
    conn = database.connect()
    conn.execute("listen task_created")
    return conn


def heard(conn: Connection) -> list[int]:
    """The ids notified to a listening connection by transactions that have committed."""
    conn.execute("select 1")  # notifications sent before this statement are read with its answer
    return [int(notice.payload) for notice in conn.notifies(timeout=0)]


def rows_read(conn: Connection, query: str, args: Any) -> tuple[list[Any], int]:
    """What the query answers, and how many rows of tasks it read for that, by whatever plan."""
    seen = "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relname = 'tasks'"
    with conn.transaction():
        before = int(value(conn, seen))  # what earlier transactions read may still stand in it
        answer = conn.execute(query, args).fetchall()
        return answer, int(value(conn, seen)) - before


class Blocked:
    """Runs a call on a connection in a thread, and knows when that connection waits for a lock."""

    def __init__(self, watcher: Connection, conn: Connection, call: Callable[[], T]) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._future: Future[T] = self._pool.submit(call)
        wait_until(
            lambda: value(
                watcher,
                "select wait_event_type = 'Lock' from pg_stat_activity where pid = %s",
                conn.info.backend_pid,
            ),
            what="the second session waits for a lock",
        )

    def result(self) -> Any:
        """What the call answered or raised, once the lock was given up."""
        try:
            return self._future.result(40)
        finally:
            self._pool.shutdown()
