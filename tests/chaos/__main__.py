"""``python3 run.py chaos --minutes N --seed S``: a fleet under load while it is killed, stopped and cut off at random.

Exit code 0 only if at the end every task is accounted for, each settled exactly once, every file whole, and nothing is
left behind. Otherwise the logs, both ledgers and the database's tables stay in the folder that it names.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any, LiteralString

import psycopg

from pgfleet import housekeeping, schedules
from tests.chaos import account, clocks, firing, report, rules, stuck
from tests.chaos.fleet import ROOT, Fleet
from tests.chaos.mishaps import Mishaps
from tests.chaos.stage import Stage
from tests.chaos.work import Creator, Ledger, Operator, Reader
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

#: Seconds for the fleet to work everything off once it is whole again.
DRAIN = 90.0
UNFINISHED: LiteralString = "select 1 from tasks where status in ('waiting', 'fresh', 'started') limit 1"
#: Seconds for the ends of runs to be accounted for.
BOOKS = 40.0
#: Seconds that a dead worker's processes may take to notice.
LINGER = 10.0
#: Seconds between the lines that say that it still runs.
NEWS = 20.0


class Soak:
    """One run, from an empty folder to the account."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.seed = str(options.seed)
        self.stage = Stage(folder)
        self.settings: dict[str, Any] = {
            "lease": options.lease, "heartbeat": options.lease / 4, "poll": 1.0, "grace": 3.0,
            "cancel_grace": 1.0,
            "database_timeout": 3.0, "concurrency": 8,
        }  # fmt: skip
        self.ledger = Ledger()
        run = f"{os.getpid()}-{time.time_ns()}"
        self.fleet = Fleet(self.stage, options.workers, run, self.settings)
        self.link = Proxy.before(self.stage.url)
        url = self.stage.url
        self.creators = [
            Creator("straight", url, self.seed, self.ledger, options.rate / 2, options.workers),
            Creator("crooked", self.link.url(url), self.seed, self.ledger, options.rate / 2, options.workers),
        ]
        self.reader = Reader(url, self.seed, self.ledger, self.stage.export_dir)
        self.events = clocks.Events()
        emitters = [
            clocks.Emitter("straight emitter", url, self.seed, self.events),
            clocks.Emitter("crooked emitter", self.link.url(url), self.seed, self.events),
        ]
        self.stopper = clocks.Stopper(url, self.seed)
        self.clients = [
            *self.creators, *emitters, self.stopper, Operator(url, self.seed, self.ledger), self.reader
        ]  # fmt: skip
        self.clocks: list[clocks.Clock] = []
        self.fired_until: datetime | None = None
        self.mishaps = Mishaps(
            self.stage, self.fleet, self.link, self.seed, every=options.every, lease=options.lease,
            log=folder / "mishaps.log", poison=self.creators[0].poison,
        )  # fmt: skip
        self.swept = 0
        self.stuck: list[str] = []
        self.wrong: dict[str, list[str]] = {}

    def run(self) -> dict[str, Any]:
        for slot in self.fleet.slots:
            self.fleet.start(slot)
        wait_until(lambda: len(self.fleet.registered()) == len(self.fleet.slots), 60, what="the fleet's registration")
        with self.stage.connect() as conn:
            self.clocks = clocks.put(conn, self.options.minutes * 60, self.ledger)
        for client in self.clients:
            client.start()
        began = time.monotonic()
        news = began + NEWS
        while time.monotonic() < began + self.options.minutes * 60:
            self.mishaps.turn()
            if time.monotonic() >= news:
                news += NEWS
                asked = f"{len(self.ledger.ids)} tasks asked for, {self.ledger.backlog} not ended"
                say(f"{time.monotonic() - began:4.0f} s  {asked}; {self.mishaps.summary()}")
            time.sleep(0.02)
        say("healing, and letting the fleet finish")
        drained = self._drain()
        return self._account(drained)

    def _drain(self) -> float | None:
        """Seconds from the last mishap's end until nothing was left to do; None where that never came."""
        for client in self.clients:
            client.end()
        self.mishaps.heal()
        began = time.monotonic()
        for client in self.clients:
            client.join(30)
        with self.stage.connect() as conn:
            self._fire_and_stop(conn)
            if not self._until(conn, began + DRAIN, UNFINISHED):
                processes = [slot.process for slot in self.fleet.slots if slot.process]
                self.stuck = stuck.describe(conn, processes, self.stage.folder / "stuck.txt")
                return None
            took = time.monotonic() - began
            # A worker that nothing wakes accounts for the ends of runs within some seconds.
            self._until(conn, time.monotonic() + BOOKS, "select 1 from run_ends")
        return took

    def _fire_and_stop(self, conn: psycopg.Connection[Any]) -> None:
        """Let the fleet fire all that has come due until now, and stop all firing."""
        self.stopper.resume(conn)
        row = conn.execute("select now()").fetchone()
        assert row is not None
        self._until(conn, time.monotonic() + DRAIN, "select 1 from triggers where due_at <= %s", row[0])
        schedules.stop(conn)
        self.fired_until = row[0]

    def _until(self, conn: psycopg.Connection[Any], deadline: float, query: LiteralString, *args: object) -> bool:
        """Wait until the query finds nothing; False where that does not come by then."""
        while conn.execute(query, args).fetchone() is not None:
            if time.monotonic() >= deadline:
                return False
            for slot in self.fleet.look():
                self.fleet.start(slot)  # a poison task's last victims
            self.mishaps.resume()
            time.sleep(0.2)
        return True

    def _account(self, drained: float | None) -> dict[str, Any]:
        ends = self.fleet.end(timeout=30)
        self._sweep()
        with self.stage.connect() as conn:
            facts = self._facts(conn)
            assert self.fired_until is not None
            fired = firing.Firing.read(conn, self.clocks, facts, self.fired_until)
        self.wrong = {
            "lost": account.lost(facts),
            "settled twice": account.settled(facts),
            "wrong": account.right(facts),
            "history": account.history(facts),
            "checkpoints": account.checkpoints(facts),
            "limits": rules.limits(facts),
            "parts": rules.parts(facts),
            "orders": rules.orders(facts),
            "placement": rules.placement(facts),
            "due times": firing.due_times(fired),
            "overlap": firing.overlap(fired),
            "events": firing.events(fired, self.events.fates),
            "numbers": firing.numbers(fired),
            "stops": self.stopper.breaches,
            "torn": [*self.reader.torn, *account.files(facts, self.stage.export_dir)],
            "fleet": [*ends, *self.fleet.unasked, *account.fleet(facts)],
            "leftovers": self._leftovers(),
            "postgres": self.stage.complaints(),
            "load": [f"{client.name}: {client.problem!r}" for client in self.clients if client.problem],
        }
        away = sum(end - start for start, end in self.stage.outages)
        least = self.options.rate * max(0.0, self.options.minutes * 60 - away) / 4
        if len(facts.tasks) < least:
            self.wrong["load"].append(
                f"{len(facts.tasks)} tasks are too few to prove anything; {least:.0f} is the least"
            )
        if drained is None:
            self.wrong["lost"].append(f"the fleet did not finish within {DRAIN:g} s")
        return report.figures(self, facts, fired, drained)

    def _leftovers(self) -> list[str]:
        """Processes that are still there some seconds after the last worker has ended."""
        deadline = time.monotonic() + LINGER
        while (left := self.fleet.leftovers()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return [f"process {pid} ({name}) is left" for pid, name in left.items()]

    def _sweep(self) -> None:
        """What killed workers left on the volume goes as it would an hour later."""
        with self.stage.connect() as conn:
            for _ in range(2):  # the first may but set the fleet's mark
                for swept in housekeeping.sweep(conn, self.stage.export_dir, slack=timedelta(0)):
                    self.swept += len(swept.files)

    def _facts(self, conn: psycopg.Connection[Any]) -> account.Facts:
        facts = account.Facts.read(conn, self.ledger, self.stage.ledger)
        facts.pauses = self.mishaps.pauses
        facts.postgres_kills = self.mishaps.counts["postgres"]
        for process in self.fleet.all:
            for worker in process.workers():
                facts.process_of[worker] = process.name
        return facts

    def close(self) -> None:
        for client in self.clients:
            client.end()
        with contextlib.ExitStack() as each:  # whatever one of them raises, the others are closed
            for part in (self.stage, self.link, self.fleet):
                each.callback(part.close)


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    folder = (options.dir or ROOT / ".pgfleet" / "chaos") / f"{time.strftime('%y%m%d-%H%M%S')}-seed-{options.seed}"
    say(f"seed {options.seed}, {options.minutes:g} minutes, {options.workers} workers, in {folder}")
    soak = Soak(options, folder)
    try:
        found = soak.run()
        report.show(found)
        for line in soak.stuck:
            say(line)
        if options.json is not None:
            options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
        if not found["ok"] or options.keep:
            soak.stage.keep()
            say(f"logs, ledgers and tables: {folder}")
    except KeyboardInterrupt:
        say(f"interrupted; what there is of it: {folder}")
        return 130
    finally:
        soak.close()
    if found["ok"] and not options.keep:
        shutil.rmtree(folder)
    return 0 if found["ok"] else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="run.py chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="how long things go wrong (default: 3)")
    parser.add_argument(
        "--seed", default="1", help="decides mishaps and work; their timing is the machine's (default: 1)"
    )
    parser.add_argument("--workers", type=int, default=6, help="worker processes (default: 6)")
    parser.add_argument("--rate", type=float, default=60.0, help="tasks created a second (default: 60)")
    parser.add_argument("--every", type=float, default=2.5, help="seconds between mishaps, on average (default: 2.5)")
    parser.add_argument(
        "--lease", type=float, default=4.0, help="the workers' lease; a heartbeat is a quarter (default: 4)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="where its folder is made (default: .pgfleet/chaos)")
    parser.add_argument("--keep", action="store_true", help="keep logs, ledgers and tables also when all is well")
    return parser


def say(text: str) -> None:
    print(f"chaos: {text}", file=sys.stderr, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
