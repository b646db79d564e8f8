"""What goes wrong: a seeded sequence of mishaps, each of which ends by itself after a while."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from pgfleet.errors import UnknownWorker
from pgfleet.workers import Orders, list_workers, order_worker
from tests.chaos.fleet import Fleet, Process, Slot
from tests.chaos.stage import Stage
from tests.support.proxy import Proxy

#: Mishaps and their weights.
KINDS = {
    "kill": 14, "crash": 14, "freeze": 12, "pause": 6, "term": 14, "child": 6, "postgres": 6, "backend": 6,
    "silence": 10, "lose": 8, "reset": 8, "deafen": 6, "creator": 4, "poison": 3,
    "order_pause": 6, "order_drain": 6,
}  # fmt: skip
#: One outage of Postgres in so many, the first among them, lasts for more than two leases.
LONG_OUTAGES = 4


class Mishaps:
    """Calls mishaps down on the fleet, about one every ``every`` seconds; :meth:`heal` ends all that go on."""

    def __init__(
        self, stage: Stage, fleet: Fleet, creator: Proxy, seed: str, *, every: float, lease: float, log: Path,
        poison: Callable[[], None],
    ) -> None:  # fmt: skip
        self._stage, self._fleet, self._creator = stage, fleet, creator
        self._every, self._lease = every, lease
        self._random = random.Random(f"{seed} mishaps")
        self._poison = poison
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._next = time.monotonic() + 2
        self._log = log.open("w", encoding="utf-8", buffering=1)
        self._creator_busy = False
        self._pausing: list[Process] = []
        self.counts: Counter[str] = Counter()
        self.kills: list[Process] = []
        #: (worker, from, until): when an operator had it pause.
        self.pauses: list[tuple[str, float, float]] = []

    def turn(self) -> None:
        """Do what is due; to be called many times a second."""
        for slot in self._fleet.look():
            slot.process_busy = True
            self._later(self._random.uniform(0.1, 2.0), lambda slot=slot: self._replace(slot))
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._random.expovariate(1 / self._every)
            self._strike(self._random.choices(list(KINDS), list(KINDS.values()))[0])

    def summary(self) -> str:
        return ", ".join(f"{kind} {count}" for kind, count in sorted(self.counts.items())) or "no mishap yet"

    def heal(self) -> None:
        """End everything that goes on, and see that every place has its worker."""
        self._postgres_back()
        while self._due:
            heapq.heappop(self._due)[2]()
        for slot in self._fleet.slots:
            slot.proxy.heal()
        self._creator.heal()
        self._log.close()

    def _strike(self, kind: str) -> None:
        roll = self._random
        if kind in ("kill", "crash", "freeze", "pause", "term", "child", "order_pause", "order_drain"):
            slots = self._fleet.registered()
            # Half of the fleet at most: the soak is about what the others do.
            if sum(slot.process_busy for slot in self._fleet.slots) >= len(self._fleet.slots) / 2 or not slots:
                return
            slot = roll.choice(slots)
            assert slot.process is not None
            self._say(kind, slot.process.name)
            getattr(self, f"_{kind}")(slot, slot.process)
        elif kind in ("silence", "lose", "reset", "deafen"):
            free = [slot for slot in self._fleet.slots if not slot.link_busy]
            if len(free) <= len(self._fleet.slots) / 2:
                return
            slot = roll.choice(free)
            self._say(kind, slot.name)
            getattr(self, f"_{kind}")(slot)
        elif kind == "postgres" and not self._stage.is_down:
            self._say(kind)
            self._stage.kill_postgres()
            long = self.counts["postgres"] % LONG_OUTAGES == 1
            self._later(self._lease * roll.uniform(2.1, 2.6) if long else roll.uniform(0.5, 3), self._postgres_back)
        elif kind == "backend" and not self._stage.is_down:
            self._say(kind)
            with self._stage.connect() as conn:
                conn.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where application_name like 'pgfleet %%' order by random() limit 3"
                )
        elif kind == "creator" and not self._creator_busy:
            self._say(kind)
            self._creator_busy = True
            self._creator.pause("down" if roll.random() < 0.7 else "both")
            self._later(roll.uniform(0.2, 2), self._creator_back)
        elif kind == "poison":
            self._say(kind)
            self._poison()

    # -- of processes

    def _kill(self, slot: Slot, process: Process, *, whole: bool = False) -> None:
        process.killed, process.whole = time.time(), whole
        process.send(signal.SIGKILL, whole=whole)
        self.kills.append(process)

    def _crash(self, slot: Slot, process: Process) -> None:
        self._kill(slot, process, whole=True)

    def _freeze(self, slot: Slot, process: Process) -> None:
        self._stop_for(slot, process, self._lease * self._random.uniform(1.3, 3))

    def _pause(self, slot: Slot, process: Process) -> None:
        self._stop_for(slot, process, self._lease * self._random.uniform(0.1, 0.6))

    def _stop_for(self, slot: Slot, process: Process, seconds: float) -> None:
        slot.process_busy = True
        whole = self._random.random() < 0.5
        process.send(signal.SIGSTOP, whole=whole)
        self._later(seconds, lambda: self._continue(slot, process, whole))

    def _continue(self, slot: Slot, process: Process, whole: bool) -> None:
        process.send(signal.SIGCONT, whole=whole)
        if slot.process is process:
            slot.process_busy = False

    def _child(self, slot: Slot, process: Process) -> None:
        """Its keeper, or a process that runs one of its tasks: killed, or stopped for a while."""
        roll = self._random
        children = process.children()
        if not children:
            return
        pid = roll.choice(children)
        with contextlib.suppress(ProcessLookupError):
            if roll.random() < 0.5:
                os.kill(pid, signal.SIGKILL)
                return
            os.kill(pid, signal.SIGSTOP)
        # Also where its worker has died meanwhile: then it has to see to its own end.
        self._later(self._lease * roll.uniform(0.3, 3), lambda: self._wake(pid))

    def _wake(self, pid: int) -> None:
        if pid in self._fleet.leftovers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _term(self, slot: Slot, process: Process) -> None:
        slot.process_busy = True
        process.told = time.time()
        process.send(signal.SIGTERM)

    # -- by an operator's word

    def _order_pause(self, slot: Slot, process: Process) -> None:
        worker = process.workers()[-1]
        if process not in self._pausing and self._tell(worker, "pause"):
            began = time.time()
            self._pausing.append(process)  # one at a time: the end of a first pause would be that of a second
            self._later(self._lease * self._random.uniform(0.2, 2), lambda: self._order_work(process, worker, began))

    def _order_work(self, process: Process, worker: str, began: float) -> None:
        self.pauses.append((worker, began, time.time()))
        self._pausing.remove(process)
        self._tell(process.workers()[-1], "work")  # it may have lost its lease; it pauses on under its new id

    def _order_drain(self, slot: Slot, process: Process) -> None:
        if self._tell(process.workers()[-1], "drain"):
            process.drained = True

    def resume(self) -> None:
        """Have every worker work that pauses: one that was between two ids has not heard it."""
        with self._stage.connect() as conn:
            for worker in list_workers(conn):
                if worker["status"] == "paused":
                    self._tell(worker["id"], "work")

    def _tell(self, worker: str, orders: Orders) -> bool:
        """False where Postgres is away, or the worker is no more."""
        if self._stage.is_down:
            return False
        try:
            with self._stage.connect() as conn:
                order_worker(conn, worker, orders)
        except UnknownWorker:
            return False
        return True

    def _replace(self, slot: Slot) -> None:
        slot.process_busy = False
        self._fleet.start(slot)

    # -- of links

    def _silence(self, slot: Slot) -> None:
        slot.proxy.pause()
        self._heal_later(slot, self._lease * self._random.uniform(0.2, 2.5))

    def _lose(self, slot: Slot) -> None:
        slot.proxy.lose()
        slot.proxy.pause()
        self._heal_later(slot, self._lease * self._random.uniform(0.2, 2.5))

    def _reset(self, slot: Slot) -> None:
        slot.proxy.cut()
        if self._random.random() < 0.5:
            slot.proxy.refuse()
            self._heal_later(slot, self._lease * self._random.uniform(0.1, 1.5))

    def _deafen(self, slot: Slot) -> None:
        """Commands arrive, answers don't; then the connections break."""
        slot.proxy.pause("down")
        self._heal_later(slot, self._random.uniform(0.05, 1.5), cut=True)

    def _heal_later(self, slot: Slot, seconds: float, *, cut: bool = False) -> None:
        slot.link_busy = True

        def heal() -> None:
            if cut:
                slot.proxy.cut()
            slot.proxy.heal()
            slot.link_busy = False

        self._later(seconds, heal)

    def _postgres_back(self) -> None:
        if self._stage.is_down:
            self._stage.start_postgres()

    def _creator_back(self) -> None:
        if self._random.random() < 0.5:
            self._creator.cut()
        self._creator.heal()
        self._creator_busy = False

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), action))

    def _say(self, kind: str, whom: str = "") -> None:
        self.counts[kind] += 1
        self._log.write(f"{time.time():.3f} {kind} {whom}\n")
