"""What a fleet that doesn't finish looks like while it still stands: once its workers are told to stop, nobody can tell why."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any, LiteralString

import psycopg

from pgfleet.workers import list_workers
from tests.chaos.fleet import Process

#: Sent to a worker, it writes the stack of each of its threads to its log (see handlers.py).
DUMP = signal.SIGUSR1
#: Seconds that it has for that; lines of a log that are shown.
WRITTEN = 1.0
LAST = 80

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
    tasks = _rows(conn, TASKS)
    first = conn.execute(TASKS).fetchone()
    workers = [f"{w['id']} {w['status']}, asleep: {w['sleeping']}, runs {w['running']}" for w in list_workers(conn)]
    sessions = _rows(conn, SESSIONS)
    before = {process.name: process.log.stat().st_size for process in processes}
    for process in processes:
        process.send(DUMP)
    time.sleep(WRITTEN)
    logs: list[str] = []
    its: list[str] = []
    for process in processes:
        text = process.log.read_bytes()
        earlier = text[: before[process.name]].decode(errors="replace").splitlines()[-LAST:]
        stacks = text[before[process.name] :].decode(errors="replace").splitlines()
        logs += [f"--- {process.name}, stacks", *stacks, f"--- {process.name}, before", *earlier]
        if first is not None and process.name.split("-")[0] in (
            _nickname(first[4]),
            (first[3] or "").removeprefix("node-"),
        ):
            its = [process.name, *(line[:200] for line in earlier[-3:]), *_main_thread(stacks)[:9]]
    path.write_text("\n".join(["--- tasks", *tasks, "--- workers", *workers, "--- sessions", *sessions, *logs]))
    return [*tasks[:4], *workers, *[line for line in sessions if "open_for None" not in line][:4], *its]


def _nickname(worker: str | None) -> str:
    return (worker or "").split(":")[0]


def _rows(conn: psycopg.Connection[Any], query: LiteralString) -> list[str]:
    cursor = conn.execute(query)
    names = [column.name for column in cursor.description or ()]
    return [", ".join(f"{name} {value}" for name, value in zip(names, row, strict=True)) for row in cursor]


def _main_thread(stacks: list[str]) -> list[str]:
    """The innermost calls first; it is written last."""
    starts = [n for n, line in enumerate(stacks) if "(most recent call first)" in line]
    return stacks[starts[-1] + 1 :] if starts else stacks
