"""Words for tests of max_running: two workers, a type with a limit, and the ways to claim of it."""

from __future__ import annotations

from tests.support.database import Database
from tests.support.fleet import OTHER, WORKER, Connection, register

ALL = "array(select id from tasks)"
#: How claim_tasks can look; `few` is the type with a limit of 2, `job` has none.
WAYS = {
    "front, one type": "select id from claim_tasks(%(worker)s, '{few}', %(n)s)",
    "front, several types": "select id from claim_tasks(%(worker)s, '{few,job}', %(n)s)",
    "by ids": f"select id from claim_tasks(%(worker)s, '{{few,job}}', %(n)s, ids => {ALL})",
    "one lane": "select id from claim_tasks(%(worker)s, '{few,job}', %(n)s,"
    " lane_types => '{few}', lane_priorities => '{0}', lane_after => '{0}')",
    "several lanes": "select id from claim_tasks(%(worker)s, '{few,job}', %(n)s,"
    " lane_types => '{job,few,few}', lane_priorities => '{0,0,1}', lane_after => '{0,0,0}')",
}


def fleet(database: Database, most: int = 2) -> tuple[Connection, Connection]:
    """Two sessions, each of a worker of its own, that serve ``few``, of which ``most`` may run, and ``job``."""
    first, second = database.connect(), database.connect()
    first.execute("select register_type('few', max_running => %s)", [most])
    register(first, WORKER, ["few", "job"])
    register(second, OTHER, ["few", "job"])
    return first, second


def take(conn: Connection, way: str, n: int = 9, worker: str = WORKER) -> list[int]:
    return [row[0] for row in conn.execute(WAYS[way], {"worker": worker, "n": n})]


def settled(conn: Connection, id: int) -> None:
    conn.execute("select finish_tasks(%s, %s, '{1}', null)", [WORKER, [id]])
