"""A worker's life around its work: it joins the fleet, comes back after a loss, and leaves. The work: :mod:`loop`."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import psycopg

from pgfleet import db, log, migrate
from pgfleet.errors import DatabaseAway, LostWorker
from pgfleet.settings import Settings
from pgfleet_worker.aio import AsyncSlots
from pgfleet_worker.attempt import Attempts
from pgfleet_worker.backoff import Backoff
from pgfleet_worker.bell import Bell
from pgfleet_worker.claims import Claims
from pgfleet_worker.declaration import Declaration
from pgfleet_worker.firing import Firing
from pgfleet_worker.handler import Handler
from pgfleet_worker.housekeeping import Housekeeping
from pgfleet_worker.keeper import Keeper
from pgfleet_worker.lease import Lease
from pgfleet_worker.looks import Looks
from pgfleet_worker.orders import Orders
from pgfleet_worker.outcome import Claimed, Outcome, Released
from pgfleet_worker.rest import Rest
from pgfleet_worker.room import Room
from pgfleet_worker.settle import Settler
from pgfleet_worker.slots import ThreadSlots
from pgfleet_worker.turns import Turns

#: What Postgres says where another holds a lock for long: all workers that start want those of the fleet's own schedules. And
#: where it is a standby that is yet to be promoted.
BUSY = (
    psycopg.errors.QueryCanceled,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.ReadOnlySqlTransaction,
)
#: Seconds that tasks have to end in, once told that the grace period is over.
LAST_WORDS = 1.0


class Life(ABC):
    """One worker process, its parts, and all that happens to it. :meth:`run` returns after :meth:`stop`, once everything
    it held is settled or given back."""

    def __init__(
        self,
        settings: Settings,
        handlers: dict[str, Handler],
        schedules: Sequence[Declaration] = (),
        *,
        listen: bool = True,
        keeper: Keeper | None = None,
    ) -> None:
        self._settings = settings
        self._handlers = handlers
        self._listens = listen
        self._log = log.get()
        self._housekeeping = Housekeeping(settings, self._log)
        self._schedules = [*schedules, *self._housekeeping.schedules]
        chores = self._housekeeping.handlers
        self._lease = Lease(settings, self._log, keeper)
        self._bell = Bell(settings, self._lease)
        self._settler = Settler(settings, self._log, self._settled, self._due_in)
        self._attempts = Attempts(settings, self._log, {**handlers, **chores}, self._settler.put, self._lease.say)
        self._threads = ThreadSlots(settings.concurrency, self._attempts.run)
        self._coroutines = AsyncSlots(
            settings.concurrency, self._attempts.run_async, lambda task: self._give_back([task]), self._bell.ring
        )
        self._async = {name for name, handler in {**handlers, **chores}.items() if handler.is_async}
        self._room = Room(settings.concurrency, self._attempts.paces, self._attempts.abandoned, chores, self._async)
        self._turns = Turns(settings.concurrency)
        self._claims = Claims(
            settings, list(handlers), list(chores), meanwhile=self._threads.stir, ring=self._bell.ring
        )
        self._looks = Looks(settings, self._log, self._claims, self._attempts, self._room)
        self._orders = Orders(self._log, self._attempts)
        self._rest = Rest(
            settings,
            self._looks,
            self._attempts,
            self._room,
            self._turns,
            lambda: self._threads.queued + self._coroutines.queued,
        )
        self._firing = Firing(settings, self._log, self._schedules, lambda: self._lease.standing.place)
        self._troubles = Backoff()
        self._stopping = False
        self._hurried = False

    def stop(self) -> None:
        """Begin the shutdown; may be called from a signal handler or any thread."""
        self._stopping = True
        self._bell.ring()

    def hurry(self) -> None:
        """Skip what is left of the grace period, likewise."""
        self._hurried = True
        self._bell.ring()

    def run(self) -> None:
        """Work until stopped. Raises only what makes a start impossible: a schema that isn't there."""
        self._start()
        while not self._stopping:
            try:
                self._turn()
            except LostWorker:
                self._lose_everything()
            except (psycopg.Error, DatabaseAway) as error:
                self._recover(error)
            else:
                self._troubles.reset()
        self._shut_down()

    @abstractmethod
    def _turn(self) -> None:
        """One turn of the work. Raises LostWorker, and what psycopg raises."""

    # -- begin

    def _start(self) -> None:
        waiting = Backoff()
        while not self._stopping:
            try:
                with db.connect(self._settings, "pgfleet worker", engine=True) as conn:
                    migrate.require_current(conn, self._settings)
                self._connect()
                return
            except LostWorker:
                self._attempts.worker = ""  # before it has begun: it took longer than its lease to get here
            except (psycopg.Error, DatabaseAway) as error:
                if not db.is_away(error) and not isinstance(error, BUSY):
                    raise
                self._pause(waiting, error)

    def _connect(self) -> None:
        """LISTEN first, then everything else: what is created meanwhile is either heard or found."""
        self._rest.deaf = not self._listens or not self._bell.connect()
        if self._listens and self._rest.deaf:
            self._log.warning(
                "notify.silent",
                hint="No NOTIFY comes through: a pooler in transaction mode? Polling instead; --no-listen says so at once.",
            )
        conn = self._claims.connect()
        if not self._attempts.worker:
            # The types first: with --types, others than this worker takes.
            self._lease.register_types(conn, [one.handler for one in self._schedules if not one.in_memory])
            self._firing.register(conn)
            with conn.transaction():  # so that no schedule looks stale in between
                worker = self._lease.register(conn, self._handlers.values())
                self._firing.declare(conn, worker)
            self._attempts.worker = worker
            self._log.info(
                "worker.registered",
                worker=self._attempts.worker,
                node=self._settings.node,
                types=sorted(self._handlers),
                concurrency=self._settings.concurrency,
            )
        self._lease.renew(conn)
        self._looks.begin_anew()
        self._rest.begin_anew()
        self._firing.connected(conn, deaf=self._rest.deaf)

    # -- recover

    def _recover(self, error: Exception) -> None:
        """Postgres is away, cut a connection or refuses: what runs, runs on; connect anew, LISTEN, look."""
        self._give_back(self._threads.take_back() + self._coroutines.take_back())
        while not self._stopping:
            self._pause(self._troubles, error)
            try:
                self._connect()
            except LostWorker:
                self._lose_everything()
                return
            except (psycopg.Error, DatabaseAway) as again:
                error = again
            else:
                self._log.info("database.back")
                return

    def _pause(self, waiting: Backoff, error: Exception) -> None:
        pause = waiting.next()
        event = "database.away" if db.is_away(error) else "database.refused"
        self._log.warning(event, error=str(error), pause=round(pause, 3))
        until = time.monotonic() + pause
        while not self._stopping and time.monotonic() < until:
            self._bell.doze(until - time.monotonic())
            self._hear_heart()

    def _lose_everything(self) -> None:
        """Our lease lapsed and our tasks are others' now: drop the work, register under a new id."""
        lost = self._lease.worker
        dropped = self._threads.take_back() + self._coroutines.take_back()
        self._room.forget()
        running = self._attempts.cancel_all("lost")
        self._coroutines.cancel()
        self._attempts.worker = ""
        self._log.error("worker.lost", worker=lost, queued=len(dropped), running=running)
        try:
            self._connect()
        except LostWorker:
            return  # the new one, already: the next turn finds out and comes here again
        except (psycopg.Error, DatabaseAway) as error:
            self._recover(error)

    # -- end

    def _shut_down(self) -> None:
        """Give back what has not begun, let what runs finish, give back the rest; the heartbeat ends last."""
        self._log.info("worker.stopping", worker=self._attempts.worker, running=len(self._attempts.running))
        self._housekeeping.stop()
        self._firing.stop()
        self._give_back(self._threads.take_back() + self._coroutines.take_back())
        self._wait_for_running(self._settings.grace, patient=True)
        left = self._attempts.cancel_all("stopping")
        self._coroutines.cancel()
        self._firing.memory.cancel()
        if left:
            self._log.warning("worker.grace_over", running=left)
            self._wait_for_running(LAST_WORDS, patient=False)
        self._threads.close()
        self._attempts.close()
        if not self._settler.close(timeout=self._settings.database_timeout):
            self._log.error("worker.unsettled", tasks=len(self._room.held))  # its lease will lapse; others redo them
        self._lease.end()
        self._claims.close()
        self._bell.close()
        self._log.info("worker.stopped", worker=self._attempts.worker)

    def _wait_for_running(self, seconds: float, *, patient: bool) -> None:
        """Until nothing runs any more, or so many seconds; a second signal ends a ``patient`` wait."""
        deadline = time.monotonic() + seconds
        while (
            (self._attempts.running or self._firing.memory.busy)
            and time.monotonic() < deadline
            and not (patient and self._hurried)
        ):
            self._bell.waiting = True
            self._bell.doze(min(0.05, deadline - time.monotonic()))
            self._hear_heart()  # somebody may want one of them cancelled, even now

    # -- what the parts tell

    def _hear_heart(self) -> None:
        for words in self._lease.hear():
            self._orders.told(words)

    def _give_back(self, tasks: Iterable[Claimed]) -> None:
        for task in tasks:
            self._settler.put(Released(task.id, task.attempt, self._attempts.worker, task.type))

    def _settled(self, outcomes: list[Outcome]) -> None:
        self._room.acknowledge(outcomes)
        if self._bell.waiting:
            self._bell.ring()

    def _due_in(self, seconds: float) -> None:
        self._looks.due_in(seconds)
        self._bell.ring()
