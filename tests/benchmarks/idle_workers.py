"""Many workers in one process, each a real ``Worker`` in a thread, for benchmarks of what listeners cost.

Run as ``python -m tests.benchmarks.idle_workers DSN COUNT``; says ``ready`` once their threads run, and works until its
stdin ends.
"""

from __future__ import annotations

import sys
import threading

from pgfleet import log
from pgfleet.settings import Settings
from pgfleet_worker.handler import load
from pgfleet_worker.loop import Worker


def main(dsn: str, count: int) -> None:
    settings = Settings(database_url=dsn, node="bench", log_level="warning")
    log.configure(settings)
    types = ("noop", "noop_stamp")
    workers = [
        Worker(settings, load(("tests.benchmarks.handlers", "tests.benchmarks.stamp"), types)) for _ in range(count)
    ]
    threads = [threading.Thread(target=worker.run) for worker in workers]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    sys.stdin.read()
    for worker in workers:
        worker.stop()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
