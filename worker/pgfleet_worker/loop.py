"""The worker's loop: look, claim, hand out, sleep. Every verb is a function below or next door."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable

import psycopg

from pgfleet import db, log, migrate, sql
from pgfleet.errors import DatabaseAway, LostWorker
from pgfleet.settings import Settings
from pgfleet_worker.aio import AsyncSlots
from pgfleet_worker.attempt import Attempts
from pgfleet_worker.backoff import Backoff
from pgfleet_worker.bell import MOST_IDS, Bell
from pgfleet_worker.claims import Claims
from pgfleet_worker.handler import Handler
from pgfleet_worker.lease import Lease
from pgfleet_worker.outcome import Claimed, Outcome, Released
from pgfleet_worker.room import Room
from pgfleet_worker.settle import Settler
from pgfleet_worker.slots import ThreadSlots
from pgfleet_worker.turns import Turns

#: Seconds of work without a pause after which the worker says that nobody need wake it; of idleness, that it sleeps.
#: Short, the latter: until then it finds by looking what it would have been told of at once (4.5 ms instead of 1).
BUSY = 0.1
IDLE = 0.01
#: Seconds between looks while idle but not yet asleep, and while some creator's transaction is still open unheard.
NAP = 0.001
VIGIL = 0.02
MOST_VIGIL = 0.5
#: Seconds between looks at a due task that somebody else has locked.
LOCKED = 0.1
#: Seconds between two looks at the slots while tasks are queued for them.
TICK = 0.002
#: Seconds that tasks have to end in, once told that the grace period is over.
LAST_WORDS = 1.0
#: Seconds between looks of a worker that no notification reaches.
DEAF_POLL = 0.25


class Worker:
    """One worker process. :meth:`run` returns after :meth:`stop`, once everything it held is settled or given back."""

    def __init__(self, settings: Settings, handlers: dict[str, Handler], *, listen: bool = True) -> None:
        self._settings = settings
        self._handlers = handlers
        self._log = log.get()
        self._queries = sql.queries("workers")
        self._bell = Bell(settings)
        self._listens = listen
        self._deaf = not listen
        self._claims = Claims(settings, list(handlers))
        self._lease = Lease(settings, self._log, self._bell.ring)
        self._settler = Settler(settings, self._log, self._settled, self._due_in)
        self._attempts = Attempts(settings, self._log, handlers, self._settler.put)
        self._threads = ThreadSlots(settings.concurrency, self._attempts.run)
        self._coroutines = AsyncSlots(
            settings.concurrency, self._attempts.run_async, lambda task: self._give_back([task])
        )
        self._async = {name for name, handler in handlers.items() if handler.is_async}
        self._room = Room(settings.concurrency, self._attempts.paces)
        self._notified: list[int] = []
        self._turns = Turns(settings.concurrency)
        self._due_soon: list[float] = []
        self._troubles = Backoff()
        self._vigil = VIGIL
        self._reconcile_due = 0.0
        self._promote_due = 0.0
        self._poll_due = 0.0
        self._active_since = 0.0
        self._idle_since = 0.0
        self._owes_look = False  # must the next looks go on until one was from the front?
        self._thorough = True  # is the next look one of those that must leave nothing out?
        self._look = True  # is there reason to look beyond the ids notified? Idle and asleep there is none
        self._asleep = True  # what the workers table says of us
        self._looking = True  # asleep by our own word, but somebody may have created a task before hearing it
        self._stopping = False

    @property
    def stopping(self) -> bool:
        """Has the shutdown begun?"""
        return self._stopping

    def stop(self) -> None:
        """Begin the shutdown; may be called from a signal handler or any thread."""
        self._stopping = True
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

    def _turn(self) -> None:
        if self._lease.lost:
            raise LostWorker(f"Worker {self._lease.worker} has lost its lease.")
        self._reconcile()
        self._promote()
        claimed = self._claim()
        self._hand_out(claimed)
        self._tend()
        self._rest(bool(claimed))

    # -- look and claim

    def _reconcile(self) -> None:
        """Free what the table says we hold and we don't know of: claims whose answers were lost with a connection."""
        if time.monotonic() < self._reconcile_due:
            return
        self._reconcile_due = time.monotonic() + self._settings.lease
        assert self._claims.conn is not None  # noqa: S101
        held = list(self._room.held.copy().items())
        arguments = (self._attempts.worker, [id for id, _ in held], [attempt for _, (attempt, _) in held])
        row = self._claims.conn.execute(self._queries["release_unheld"], arguments).fetchone()
        if row and row[0]:
            self._log.warning("task.unheld", worker=self._attempts.worker, tasks=row[0])

    def _promote(self) -> None:
        if self._due_soon:
            self._promote_due = min(self._promote_due, *self._due_soon)
            self._due_soon.clear()
        if time.monotonic() < self._promote_due:
            return
        assert self._claims.conn is not None  # noqa: S101
        row = self._claims.conn.execute(self._queries["promote"], prepare=True).fetchone()
        promoted, next_in = row or (0, None)
        self._look = self._look or promoted > 0
        # Awake, we are told of nothing: look each second. Due and yet not promoted: somebody has it locked.
        pause = min(self._settings.poll, 1.0 if not self._asleep else self._settings.poll)
        if next_in is not None:
            pause = min(pause, next_in if next_in > 0 or promoted else LOCKED)
        self._promote_due = time.monotonic() + pause

    def _claim(self) -> list[Claimed]:
        worker, room = self._attempts.worker, self._room.measure(self._threads, self._coroutines)
        if self._notified and room > 0:
            ids, self._notified = self._notified, []
            claimed = self._claims.notified(worker, ids, room)
            if len(claimed) < len(ids):
                # Somebody else has the rest, or they are not due: then we must know when. And where many came at once,
                # there may be more than were told of.
                self._promote_due = min(self._promote_due, time.monotonic() + NAP)
            if len(ids) > 1:
                self._look = self._owes_look = True
            if claimed:
                return self._room.take(claimed, more=True)  # start them first; the next turn looks for more
        if not self._look:
            return []
        taken: list[Claimed] = []
        looks: list[bool] = []
        thorough, self._thorough = self._thorough, False
        for ask in self._room.asks(thorough=thorough):
            claimed = self._claims.next(worker, ask.quantity, ask.types)
            looks.append(self._claims.from_front)
            taken += self._room.take(claimed, more=len(claimed) == ask.quantity)
        if looks and all(looks):
            self._owes_look = False
        return taken

    def _hand_out(self, claimed: list[Claimed]) -> None:
        if not claimed:
            return
        for_threads = [task for task in claimed if task.type not in self._async] if self._async else claimed
        if for_threads:
            self._threads.offer(for_threads, self._room.threads_for(for_threads))
        if len(for_threads) < len(claimed):
            self._coroutines.offer(task for task in claimed if task.type in self._async)

    def _tend(self) -> None:
        """See to the slots: more threads where those at work are stuck; what can't start soon goes back."""
        if not self._threads.queued and not self._coroutines.queued:
            return
        self._threads.wake(self._room.threads_lacking(self._threads))
        if self._room.held_up(self._threads, self._coroutines):
            self._give_back(self._threads.take_back() + self._coroutines.take_back())

    def _give_back(self, tasks: Iterable[Claimed]) -> None:
        for task in tasks:
            self._settler.put(Released(task.id, task.attempt, self._attempts.worker))

    def _settled(self, outcomes: list[Outcome]) -> None:
        self._room.acknowledge(outcomes)
        if self._bell.waiting:
            self._bell.ring()

    def _due_in(self, seconds: float) -> None:
        self._due_soon.append(time.monotonic() + seconds)
        self._bell.ring()

    # -- sleep

    def _rest(self, worked: bool) -> None:
        now = time.monotonic()
        if worked or self._room.is_full:
            self._idle_since = now
            self._look = True
            if self._asleep and now - self._active_since > BUSY:
                self._say_asleep(False)
            self._listen(self._pause_at_work(worked))
        else:
            self._active_since = now
            self._look = True
            self._listen(self._pause_when_idle(now))

    def _pause_at_work(self, worked: bool) -> float:
        if self._room.has_more:
            return 0.0
        if worked or self._threads.queued or self._coroutines.queued:
            return TICK  # time for a batch to gather
        return self._settings.poll

    def _pause_when_idle(self, now: float) -> float:
        if self._threads.queued or self._coroutines.queued:
            self._idle_since = now  # claimed ahead and not begun: that is not idle, and the slots want tending
            return NAP
        if not self._asleep:
            if now - self._idle_since < IDLE:
                return NAP
            if self._deaf:
                return min(self._settings.poll, DEAF_POLL)
            self._say_asleep(True)
            self._looking = True
            self._vigil = VIGIL
        if self._looking:
            # Whoever created before hearing that we sleep told nobody: look once more, when all of them have committed.
            if not self._is_quiet():
                self._vigil = min(self._vigil * 1.5, MOST_VIGIL)
                return self._vigil
            self._looking = False
            self._promote_due = 0.0  # a delayed task may have come as unheard as any
            self._claims.look_from_the_front()
            self._thorough = True
            return 0.0
        if now >= self._poll_due:
            self._thorough = True
            self._poll_due = now + self._settings.poll * random.uniform(0.8, 1.0)  # noqa: S311 - spreads the fleet
            return 0.0
        if self._owes_look:  # there may be more than we were told of, where no lane leads: when the look is affordable
            return max(NAP, self._claims.front_in)
        self._look = False
        return min(self._poll_due, self._promote_due, self._turns.due) - now

    def _listen(self, timeout: float) -> None:
        self._bell.waiting = timeout > 0
        if timeout > 0 and (self._room.changed or self._stopping):
            timeout = 0.0
        heard = self._bell.wait(timeout)
        if self._bell.overflowed():
            self._look = self._owes_look = True
        self._notified += self._turns.take(heard, self._lease.place, self._lease.alive)
        if len(self._notified) > MOST_IDS:  # we are full and others are not told apart: look when there is room
            self._notified.clear()
            self._look = self._owes_look = True

    def _say_asleep(self, asleep: bool) -> None:
        assert self._claims.conn is not None  # noqa: S101
        self._claims.conn.execute(self._queries["set_sleeping"], (self._attempts.worker, asleep), prepare=True)
        self._asleep = asleep

    def _is_quiet(self) -> bool:
        assert self._claims.conn is not None  # noqa: S101
        row = self._claims.conn.execute(self._queries["is_quiet"], prepare=True).fetchone()
        return bool(row and row[0])

    # -- begin, recover, end

    def _start(self) -> None:
        waiting = Backoff()
        while not self._stopping:
            try:
                with db.connect(self._settings, "pgfleet worker") as conn:
                    migrate.require_current(conn, self._settings)
                self._connect()
                return
            except (psycopg.Error, DatabaseAway) as error:
                if not db.is_away(error):
                    raise
                self._pause(waiting, error)

    def _connect(self) -> None:
        """LISTEN first, then everything else: what is created meanwhile is either heard or found."""
        self._deaf = not self._listens or not self._bell.connect()
        if self._listens and self._deaf:
            self._log.warning(
                "notify.silent",
                hint="No NOTIFY comes through: a pooler in transaction mode? Polling instead; --no-listen says so at once.",
            )
        conn = self._claims.connect()
        if not self._attempts.worker:
            self._attempts.worker = self._lease.register(conn, self._handlers.values())
            self._log.info(
                "worker.registered",
                worker=self._attempts.worker,
                node=self._settings.node,
                types=sorted(self._handlers),
                concurrency=self._settings.concurrency,
            )
        self._lease.renew(conn)
        self._look = True
        self._asleep = False  # whatever the table says after a crash: say it anew when it is so
        self._say_asleep(False)
        self._poll_due = self._promote_due = self._reconcile_due = self._idle_since = 0.0

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

    def _lose_everything(self) -> None:
        """Our lease lapsed and our tasks are others' now: drop the work, register under a new id."""
        lost = self._lease.worker
        dropped = self._threads.take_back() + self._coroutines.take_back()
        self._room.forget()
        for task in list(self._attempts.running.values()):
            task.cancelled = True
        self._coroutines.cancel()
        self._attempts.worker = ""
        self._log.error("worker.lost", worker=lost, queued=len(dropped), running=len(self._attempts.running))
        try:
            self._connect()
        except (psycopg.Error, DatabaseAway) as error:
            self._recover(error)

    def _shut_down(self) -> None:
        """Give back what has not begun, let what runs finish, give back the rest; the heartbeat ends last."""
        self._log.info("worker.stopping", worker=self._attempts.worker, running=len(self._attempts.running))
        self._give_back(self._threads.take_back() + self._coroutines.take_back())
        self._wait_for_running(self._settings.grace)
        self._attempts.stopping = True
        left = list(self._attempts.running.values())
        for task in left:
            task.cancelled = True
        self._coroutines.cancel()
        if left:
            self._log.warning("worker.grace_over", running=len(left))
            self._wait_for_running(LAST_WORDS)
        self._threads.close()
        if not self._settler.close(timeout=self._settings.database_timeout):
            self._log.error("worker.unsettled", tasks=len(self._room.held))  # its lease will lapse; others redo them
        self._lease.end()
        self._claims.close()
        self._bell.close()
        self._log.info("worker.stopped", worker=self._attempts.worker)

    def _wait_for_running(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._attempts.running and time.monotonic() < deadline:
            self._bell.waiting = True
            self._bell.doze(min(0.05, deadline - time.monotonic()))
