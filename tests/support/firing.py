"""Words for tests of firing in SQL: schedules that have come due, and the runs made of them."""

from __future__ import annotations

from datetime import datetime, timedelta

from pgfleet import schedules
from pgfleet.schedules import Schedule, Trigger
from tests.support.database import Database
from tests.support.fleet import WORKER, Connection, claim, column, register, value

HOUR = timedelta(hours=1)
HOURLY = Trigger.interval(HOUR)


def fleet(database: Database, *wanted: Schedule) -> Connection:
    conn = database.connect()
    register(conn)
    schedules.put_all(conn, wanted)
    return conn


def come_due(conn: Connection, ago: timedelta = timedelta(seconds=1), name: str = "s") -> list[datetime]:
    """Let the schedule's triggers have come due so long ago; answers their due times."""
    query = "update triggers set due_at = now() - %s where schedule = %s and kind <> 'event' returning due_at"
    return [row[0] for row in conn.execute(query, [ago, name])]


def settle(conn: Connection, status: str) -> int:
    """Let the worker claim a task and end it so; answers its id."""
    (id,) = claim(conn)
    if status == "success":
        assert value(conn, "select finish_tasks(%s, %s, '{1}', '{done}')", WORKER, [id]) == []
    elif status == "failure":
        conn.execute("select fail_task(%s, %s, 1, 'broke', give_up => true)", [WORKER, id])
    return id


def finish(conn: Connection) -> int:
    return settle(conn, "success")


def due_times(conn: Connection) -> list[datetime]:
    """The due times of all runs, in order."""
    return column(conn, "select due_at from tasks where due_at is not null order by due_at")
