"""At a million rows every transition of the protocol reads the rows it touches and no others, whatever the statistics say.

EXPLAIN can't look into a function, so two witnesses are heard: Postgres's own counts of what a call read, on every
server, and auto_explain's plans of the statements inside, where the server has that module.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgfleet import sql
from tests.support.database import Database, Databases

ROWS = 1_000_000
DEAD = 20_000

A_LANE = "lane_types => '{a}', lane_priorities => '{0}', lane_after => '{5000}'"
LIMITED_LANES = "lane_types => '{a,d}', lane_priorities => '{0,0}', lane_after => '{5000,0}'"
LANES = "lane_types => '{a,b,b}', lane_priorities => '{0,0,5}', lane_after => '{5000,5000,0}'"
IDS = "(select array_agg(i) from generate_series(%s, %s) i)"

CALLS = {
    "claim, from the front": "select * from claim_tasks('w', '{a}', 100)",
    "claim, several types": "select * from claim_tasks('w', '{a,b,c}', 100)",
    "claim, one lane": f"select * from claim_tasks('w', '{{a}}', 100, {A_LANE})",
    "claim, several lanes": f"select * from claim_tasks('w', '{{a,b}}', 100, {LANES})",
    "claim, by id": f"select * from claim_tasks('w', '{{a,b}}', 100, ids => {IDS % (9000, 9099)})",
    "claim, lanes and ids": f"select * from claim_tasks('w', '{{a,b}}', 100, ids => {IDS % (4000, 4099)}, {LANES})",
    "claim, targeted": "select * from claim_tasks('aimed', '{a}', 100)",
    "claim, targeted among several types": "select * from claim_tasks('aimed', '{a,b,d}', 100)",
    "claim, targeted by id": f"select * from claim_tasks('aimed', '{{a}}', 100, ids => {IDS % (ROWS + 1, ROWS + 100)})",
    "claim, limited": "select * from claim_tasks('w', '{d}', 100)",
    "claim, limited among several types": "select * from claim_tasks('w', '{a,b,d}', 100)",
    "claim, limited lanes": f"select * from claim_tasks('w', '{{a,d}}', 100, {LIMITED_LANES})",
    "claim, limited by id": f"select * from claim_tasks('w', '{{d}}', 100, ids => {IDS % (ROWS + 5101, ROWS + 5200)})",
    "see what lanes pass over": (
        "select * from overlooked_tasks('w', '{a,b}', 100, '{a,b,b}', '{0,0,5}', '{5000,5000,0}')"
    ),
    "see what is unclaimed": f"select unclaimed_tasks({IDS % (1, 100)})",
    "notify": f"select notify_tasks({IDS % (ROWS + 1, ROWS + 50)})",
    "make room under a limit": (
        f"select finish_tasks('held', {IDS % (ROWS + 5001, ROWS + 5010)}, array_fill(1, '{{10}}'), null);"
        " set constraints all immediate"
    ),
    "end a part": f"select finish_tasks('held', '{{{ROWS + 20002}}}', '{{1}}', null); set constraints all immediate",
    "crash parts": "select * from crash_parts('0')",
    "set a first limit": "select configure_type('c', max_running => 5)",
    "raise a limit": "select configure_type('d', max_running => 500)",
    "settle": f"select finish_tasks('held', {IDS % (1, 100)}, array_fill(1, '{{100}}'), null)",
    "settle, with costs": (
        f"select finish_tasks('held', {IDS % (1, 100)}, array_fill(1, '{{100}}'), null, array_fill(.1, '{{100}}'))"
    ),
    "settle with a failure": "select * from fail_task('held', 101, 1, 'no')",
    "settle with a retry": "select * from fail_task('held', 199, 1, 'no')",
    "settle as cancelled": "select end_cancelled('held', 200, 1)",
    "report": "select progress_task('held', 101, 1, 0.5)",
    "save a checkpoint": "select checkpoint_task('held', 101, 1, 'here')",
    "orders": "select * from worker_orders('held')",
    "cancel": "select cancel_task(400)",
    "cancel what runs": "select cancel_task(1)",
    "retry": "select retry_task(20001)",
    "resume": "select resume_task(20003)",
    "history": sql.queries("tasks")["executions"] % {"id": 20005, "offset": 0, "limit": 50},
    "give back": f"select release_tasks('held', {IDS % (102, 199)}, array_fill(1, '{{98}}'))",
    "give back what nobody knows of": f"select release_unheld('held', {IDS % (1, 150)}, array_fill(1, '{{150}}'))",
    "leave": "select deregister_worker('held')",
    "renew": "select * from renew_worker('w')",
    "rescue": "select * from rescue_tasks()",
    "promote": "select * from promote_tasks(100)",
}
#: What touches one task, however many its worker holds.
OF_ONE = (
    "settle with a failure", "settle with a retry", "settle as cancelled", "report", "save a checkpoint", "orders",
    "cancel", "cancel what runs", "retry", "resume", "history",
)  # fmt: skip
WORKERS = """
    insert into workers (id, node, types, concurrency, version, lease, lease_expires_at)
    values ('w', 'n', '{a}', 1, '1', '1 day', now() + '1 day'), ('held', 'n', '{a}', 1, '1', '1 day', now() + '1 day'),
           ('lost', 'n', '{a}', 1, '1', '1 s', now() - interval '1 day'),
           ('aimed', 'm', '{a}', 1, '1', '1 day', now() + '1 day');
    insert into task_types (name, max_running) values ('d', 200) on conflict do nothing
"""
FILL = """
    insert into task_types (name) values ('a'), ('b'), ('c');
    insert into tasks (type, status, worker, started_at, attempt, run_at, max_retries, cancel_requested_at, created_by)
    select case i %% 3 when 0 then 'a' when 1 then 'b' else 'c' end,
           case when i <= 300 then 'started' when i <= 500 then 'waiting'
                when i = 20001 then 'failure' when i = 20003 then 'crashed'
                when i <= 20000 or i %% 2 = 0 then 'fresh' else 'success' end,
           case when i <= 200 then 'held' when i <= 300 then 'lost' when i > 20000 and i %% 2 = 1 then 'w' end,
           case when i <= 300 then now() end, 1, case when i between 301 and 500 then now() - interval '1 s' end,
           case when i = 199 then 1 end, case when i = 200 then now() end, 0
    from generate_series(1, %s) i;
    -- Behind them: 5,000 tasks that name a node, 10,000 of a type with a limit, and 5,000 parts, all but three done.
    insert into tasks (type, status, worker, started_at, attempt, limited, node, parent, created_by)
    select case when i <= 5000 then 'a' when i <= 15000 then 'd' else 'a' end,
           case when i between 5001 and 5100 or i in (20001, 20002) then 'started'
                when i between 15001 and 19998 then 'success' else 'fresh' end,
           case when i between 5001 and 5100 or i = 20002 then 'held' when i in (15001, 20001) then 'all nodes' end,
           case when i between 5001 and 5100 or i in (20001, 20002) then now() end, 1,
           case when i between 5001 and 5100 then true end,
           case when i <= 5000 then case i %% 2 when 0 then 'm' else 'elsewhere' end
                when i > 15000 and i not in (15001, 20001) then 'node ' || i end,
           case when i between 15002 and 19998 then %s + 15001 when i in (19999, 20000, 20002) then %s + 20001 end, 0
    from generate_series(1, 20002) i;
    insert into task_attempts (task_id, attempt, worker, ended_at, status)
    select i, 0, 'w', now(), 'failure' from generate_series(20001, 40000) i;
"""


EMPTY, NONE, FRESH = "planned while empty", "no statistics", "fresh statistics"


@pytest.fixture(scope="module", params=[EMPTY, NONE, FRESH])
def deep(request: pytest.FixtureRequest, databases: Databases) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a million tasks: half ready, half done, a few hundred of every other state."""
    made = databases.migrated()
    conn = made.connect()
    conn.execute("alter table tasks set (autovacuum_enabled = off)")
    if request.param == EMPTY:
        conn.execute("vacuum analyze tasks")
        conn.execute(WORKERS)
        for call in CALLS.values():  # each function's plans are made here, and kept by this connection
            with contextlib.suppress(psycopg.DatabaseError):
                conn.execute(call)
        conn.execute("truncate workers")
    conn.execute(WORKERS)
    conn.execute(FILL % (ROWS, ROWS, ROWS))
    if request.param == FRESH:
        conn.execute("analyze tasks")
    conn.autocommit = False
    yield conn
    conn.rollback()
    databases.drop(made)


def reads(conn: psycopg.Connection[Any]) -> tuple[int, int]:
    """(sequential scans, rows fetched) of the fleet's large tables in this transaction."""
    row = conn.execute(
        "select sum(seq_scan), sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) from pg_stat_xact_user_tables"
        " where relname in ('tasks', 'task_attempts')"
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


@pytest.mark.parametrize("call", CALLS)
def test_a_call_reads_what_it_touches(deep: psycopg.Connection[Any], call: str) -> None:
    with deep.transaction(force_rollback=True):
        scans, rows = reads(deep)
        deep.execute(CALLS[call])
        after_scans, after_rows = reads(deep)
    assert after_scans == scans
    # One task: looked for, locked, updated, seen by the history's foreign key, and for its node. 100: in up to three lanes.
    assert after_rows - rows <= (8 if call in OF_ONE else 1800)


@pytest.mark.parametrize("call", CALLS)
def test_auto_explain_shows_index_scans_only(deep: psycopg.Connection[Any], call: str) -> None:
    conn = deep
    plans: list[str] = []
    conn.add_notice_handler(lambda note: plans.append(note.message_primary or ""))
    try:
        conn.execute("load 'auto_explain'")
    except psycopg.errors.UndefinedFile:
        conn.rollback()
        assert conn.info.server_version >= 180000, "a packaged Postgres comes with auto_explain"
        return
    conn.execute(
        "set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;"
        "set auto_explain.log_level = notice; set client_min_messages = notice"
    )
    conn.execute(CALLS[call])
    conn.rollback()
    text = "\n".join(plans)
    assert "Index Scan using" in text or call == "renew"
    for node in ("Seq Scan on task", "Hash Join", "Merge Join", "Bitmap Heap Scan on tasks"):
        assert node not in text, text


def test_behind_the_watermark_a_claim_meets_no_dead_entries(database: Database) -> None:
    conn, dump = database.connect(), database.connect(autocommit=False)
    conn.execute(
        "insert into task_types (name) values ('a'); alter table tasks set (autovacuum_enabled = off);"
        "insert into workers (id, node, types, concurrency, version, lease, lease_expires_at)"
        " values ('w', 'n', '{a}', 1, '1', '1 day', now() + '1 day')"
    )
    conn.execute("select create_tasks('a', array_fill(null::text, array[%s]), 0)" % (DEAD + 300))
    dump.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    dump.execute("select 1")  # from here on no dead entry can be cleaned
    conn.execute("select count(*) from claim_tasks('w', '{a}', %s)", (DEAD,))

    def cost(call: str) -> int:
        with conn.transaction():
            conn.execute("set local track_io_timing = off")
            before = conn.execute("select pg_stat_get_xact_tuples_returned('tasks_fresh'::regclass)").fetchone()
            conn.execute(call)
            after = conn.execute("select pg_stat_get_xact_tuples_returned('tasks_fresh'::regclass)").fetchone()
        assert before is not None
        assert after is not None
        return int(after[0]) - int(before[0])

    lane = "select * from claim_tasks('w', '{a}', 100, lane_types => '{a}', lane_priorities => '{0}', lane_after => array[%s])"
    assert cost(lane % DEAD) <= 200
    assert cost("select * from claim_tasks('w', '{a}', 100)") >= DEAD  # what the watermark spares
