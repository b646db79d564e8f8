"""What a fleet that doesn't finish looks like while it still stands: once its workers are told to stop, nobody can tell why."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from pgfleet.workers import list_workers
from tests.chaos.fleet import Process
from tests.chaos.handlers import DUMP
from tests.support.waiting import wait_until

#: Seconds that a worker has to write its stacks in: one that is stopped never does.
PATIENCE = 5
#: Lines of a log that are shown.
LAST = 80
#: The outermost call of a worker's main thread.
OUTERMOST = b"_run_module_as_main"

TASKS: LiteralString = (
    "select id, type, status, node, worker, attempt, run_at, now() - updated_on as age, schedule, parent from tasks"
    " where status in ('waiting', 'fresh', 'started') order by id limit 40"
)
SESSIONS: LiteralString = (
    "select pid, application_name, state, wait_event_type, wait_event, now() - xact_start as open_for,"
    " pg_blocking_pids(pid) as behind, left(query, 100) as query from pg_stat_activity"
    " where backend_type = 'client backend' and pid <> pg_backend_pid() order by application_name, pid"
)


def describe(conn: psycopg.Connection[Any], processes: list[Process], path: Path) -> list[str]:
    """Write all there is to know to ``path``: unfinished tasks, workers, sessions, stacks and the ends of the logs. Answers
    the lines that matter most, the last of them what the worker does that has the oldest task, or its node."""
    unfinished = _rows(conn, TASKS)
    tasks, sessions = _lines(unfinished), _lines(_rows(conn, SESSIONS))
    workers = [f"{w['id']} {w['status']}, asleep: {w['sleeping']}, runs {w['running']}" for w in list_workers(conn)]
    starts = {process.name: process.log.stat().st_size for process in processes}
    for process in processes:
        process.send(DUMP)
    with suppress(AssertionError):
        wait_until(lambda: all(OUTERMOST in p.log.read_bytes()[starts[p.name] :] for p in processes), PATIENCE)
    logs: list[str] = []
    its: list[str] = []
    for process in processes:
        text, start = process.log.read_bytes(), starts[process.name]
        earlier = text[:start].decode(errors="replace").splitlines()[-LAST:]
        stacks = text[start:].decode(errors="replace").splitlines()
        logs += [f"--- {process.name}, stacks", *stacks, f"--- {process.name}, before", *earlier]
        if unfinished and process.name.split("-")[0] == _slot(unfinished[0]):
            its = [process.name, *(line[:200] for line in earlier[-3:]), *_main_thread(stacks)[:9]]
    path.write_text("\n".join(["--- tasks", *tasks, "--- workers", *workers, "--- sessions", *sessions, *logs]))
    return [*tasks[:4], *workers, *[line for line in sessions if "open_for None" not in line][:4], *its]


def _slot(task: dict[str, Any]) -> str:
    """The place in the fleet of the worker that has it, or of its node; empty where it is anybody's."""
    holder = (task["worker"] or "").split(":")[0]
    return holder or (task["node"] or "").removeprefix("node-")


def _rows(conn: psycopg.Connection[Any], query: LiteralString) -> list[dict[str, Any]]:
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query).fetchall()


def _lines(rows: list[dict[str, Any]]) -> list[str]:
    return [", ".join(f"{name} {value}" for name, value in row.items()) for row in rows]


def _main_thread(stacks: list[str]) -> list[str]:
    """The innermost calls first; it is written last."""
    starts = [n for n, line in enumerate(stacks) if "(most recent call first)" in line]
    return stacks[starts[-1] + 1 :] if starts else stacks
