"""The limit: two bare connections that claim and settle with the worker's own SQL and run nothing.

What a worker in Python could reach at most if its handlers, fences, lease, bell and room cost nothing.
Run as ``python -m tests.benchmarks.limit DSN``; works until it is killed.
"""

from __future__ import annotations

import queue
import sys
import threading
import uuid

import psycopg

from pgfleet import sql

BATCH = 1000
#: Batches claimed and not yet settled. More only makes the claims run ahead of the settles.
OUTSTANDING = 4


def main(dsn: str) -> None:
    worker = f"limit:{uuid.uuid4()}"
    queries = sql.queries("workers")
    claim = psycopg.connect(dsn, autocommit=True, options="-csynchronous_commit=off")
    settle = psycopg.connect(dsn, autocommit=True)
    claim.execute("select register_worker(%s, 'bench', '{noop}', 1, '1 hour', 'limit')", [worker])
    batches: queue.SimpleQueue[list[tuple[int, int]]] = queue.SimpleQueue()
    places = threading.Semaphore(OUTSTANDING)

    def settle_all() -> None:
        while True:
            batch = batches.get()
            ids = f"{{{','.join([str(id) for id, _ in batch])}}}"
            attempts = f"{{{','.join([str(attempt) for _, attempt in batch])}}}"
            settle.execute(queries["finish"], (worker, ids, attempts, None, None, None), prepare=True)
            places.release()

    threading.Thread(target=settle_all, daemon=True).start()
    after = 0
    claims = psycopg.RawCursor(claim)
    while True:
        places.acquire()
        lane = (worker, ["noop"], BATCH, ["noop"], [0], [after])
        rows = claims.execute(queries["claim_lanes"], lane, prepare=True, binary=True).fetchall()
        if not rows:
            break
        after = rows[-1][0]
        batches.put([(row[0], row[4]) for row in rows])
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1])
