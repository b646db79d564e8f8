"""A creator that keeps a pace: ``python -m tests.benchmarks.paced DSN RATE BATCH``, until its stdin ends.

Every batch is one ``create_many``. Answers one line of JSON when it is told to end; the ids it made are all there are.
"""

from __future__ import annotations

import json
import select
import sys
import time

import psycopg

from pgfleet import tasks


def main(dsn: str, rate: float, batch: int) -> None:
    made, pause = 0, batch / rate
    with psycopg.connect(dsn, autocommit=True) as conn:
        tasks.create_many(conn, "noop", [None] * batch, created_by=0)  # prepares
        began = due = time.monotonic()
        while True:
            tasks.create_many(conn, "noop", [None] * batch, created_by=0)
            made += batch
            # One that fell behind catches up by half a second at most: a pace, not a backlog paid back at once.
            due = max(due + pause, time.monotonic() - 0.5)
            if select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
                break
        seconds = time.monotonic() - began
    print(json.dumps({"n": made, "seconds": seconds, "rate": made / seconds}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
