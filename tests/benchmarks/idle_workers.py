"""Many workers forked from one process, for benchmarks of what listeners cost: each real, and a process of its own.

What was imported they share, so that 200 take a few gigabytes less; threads of one process would share its interpreter's
lock as well, and 50 of them, woken at once, wait for each other more than they work.
Run as ``python -m tests.benchmarks.idle_workers DSN COUNT``; says ``ready`` once all are forked, who then work until its
stdin ends.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import suppress

from pgfleet import log
from pgfleet.settings import Settings
from pgfleet_worker.handler import load
from pgfleet_worker.loop import Worker
from tests.benchmarks.processes import die_with_parent

HANDLERS = ("tests.benchmarks.handlers", "tests.benchmarks.stamp")
TYPES = ("noop", "noop_stamp", "sleep_20ms")


def work(settings: Settings) -> None:
    """One worker, until SIGTERM."""
    die_with_parent()
    worker = Worker(settings, load(HANDLERS, TYPES))
    signal.signal(signal.SIGTERM, lambda number, frame: worker.stop())
    worker.run()


def main(dsn: str, count: int) -> None:
    settings = Settings(database_url=dsn, node="bench", log_level="warning")
    log.configure(settings)
    load(HANDLERS, TYPES)  # imported before the forks
    gc.freeze()  # a collection in a child would copy the pages that it shares
    workers = []
    for _ in range(count):
        pid = os.fork()
        if not pid:
            try:
                work(settings)
            finally:
                os._exit(0)
        workers.append(pid)
    print("ready", flush=True)
    sys.stdin.read()
    for pid in workers:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    for pid in workers:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
