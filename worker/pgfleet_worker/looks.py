"""Looks at the table: what is due, what may be claimed, what the table thinks we hold. And whether there is reason to look."""

from __future__ import annotations

import time
from collections.abc import Collection

from pgfleet import db, sql
from pgfleet.log import Logger
from pgfleet.settings import Settings
from pgfleet_worker.attempt import Attempts
from pgfleet_worker.bell import MOST_IDS
from pgfleet_worker.claims import FRONT_PAUSE, OTHERS, Claims
from pgfleet_worker.outcome import Claimed
from pgfleet_worker.room import Ask, Room
from pgfleet_worker.unheld import Unheld

#: Seconds between looks while idle but not yet asleep.
NAP = 0.001
#: Seconds between looks at a due task that somebody else has locked.
LOCKED = 0.1
#: The most ids kept that others went before. Each costs a claim that asks for it 1.5 µs, once in FRONT_PAUSE seconds.
MOST_KEPT = 2 * MOST_IDS


class Looks:
    """One worker's looks, all over the claims' connection. The loop's thread alone calls it, but for :meth:`due_in`."""

    def __init__(self, settings: Settings, log: Logger, claims: Claims, attempts: Attempts, room: Room) -> None:
        self._settings = settings
        self._log = log
        self._claims = claims
        self._attempts = attempts
        self._room = room
        self._queries = sql.queries("workers")
        self._heard: list[int] = []
        #: Ids that a look beside the work has found, or that others went before; and when a claim next asks for them.
        self._kept: list[int] = []
        self._kept_due = 0.0
        self._due_soon: list[float] = []
        self._unheld = Unheld(settings, log, attempts, room)
        self._learn_due = 0.0
        #: When, on the monotonic clock, a waiting task may be due.
        self.promote_due = 0.0
        #: Types of which there may be tasks that no lane leads to, nor any id that is known.
        self._owing: set[str] = set()
        self._owed_since = 0.0
        self._at_any_cost = False
        #: Is the next look one of those that must leave nothing out?
        self.thorough = True
        #: Is there reason to look beyond the ids notified? Idle and asleep there is none.
        self.wanted = True

    def begin_anew(self) -> None:
        """After a reconnect: everything may have changed."""
        self.wanted = True
        self._unheld.begin_anew()
        self.promote_due = self._learn_due = 0.0

    @property
    def connection(self) -> db.Connection:
        """The connection claims are made over. Only while there is one."""
        assert self._claims.conn is not None  # noqa: S101
        return self._claims.conn

    @property
    def front_in(self) -> float:
        """Seconds until a look from the front is affordable."""
        return self._claims.front_in

    @property
    def front_pause(self) -> float:
        """Seconds between two looks from the front that are affordable."""
        return self._claims.front_pause

    def due_in(self, seconds: float) -> None:
        """A task will be due in so many seconds; from any thread."""
        self._due_soon.append(time.monotonic() + seconds)

    @property
    def has_heard(self) -> bool:
        """Have ids been notified that no claim has asked for yet?"""
        return bool(self._heard)

    @property
    def knows_ids(self) -> bool:
        """Are there such ids, or others that may still be ready and that we may take?"""
        return bool(self._heard or (self._kept and self._room.types is None))

    def heard(self, ids: list[int], *, overflowed: bool) -> None:
        """These ids were notified; ``overflowed``: and more than are worth telling apart."""
        if overflowed:
            self.owe()
        self._heard += ids
        if len(self._heard) > MOST_IDS:  # we are full and others are not told apart: look when there is room
            self._heard.clear()
            self.owe()

    @property
    def owed(self) -> bool:
        """Must the looks go on until those from the front have found all?"""
        return bool(self._owing)

    def owe(self, types: Collection[str] | None = None) -> None:
        """There may be tasks (of ``types``, or any) that no lane leads to, nor any id that is known: look from the front when
        that is affordable."""
        self._owing.update(self._room.served if types is None else types)
        self.wanted = True
        self._owed_since = time.monotonic()

    def once_more(self) -> None:
        """Let the next look see to everything, whatever that costs: what came unheard is found by nothing else."""
        self.promote_due = 0.0  # a delayed task may have come as unheard as any
        self._claims.look_from_the_front()
        self.owe()
        self.thorough = self._at_any_cost = True

    def go_on(self) -> None:
        """Of some types nothing was claimed for a while: what has come meanwhile may be found by nothing but a look."""
        if self._at_any_cost:
            self.once_more()
        else:
            self.owe()

    def learn(self) -> None:
        """What the types' rows say of timeouts: an operator may have changed them."""
        if time.monotonic() < self._learn_due:
            return
        self._learn_due = time.monotonic() + self._settings.heartbeat
        rows = db.call(self.connection, self._queries["timeouts"], types=list(self._attempts.paces))
        self._attempts.limit(dict(rows.fetchall()))

    def reconcile(self) -> None:
        """Free what the table says we hold and we don't know of: claims whose answers were lost with a connection."""
        self._unheld.tend(self.connection)

    def promote(self, most: float) -> None:
        """Make ready what is due, when it may be, and after ``most`` seconds at the latest."""
        if self._due_soon:
            self.promote_due = min(self.promote_due, *self._due_soon)
            self._due_soon.clear()
        if time.monotonic() < self.promote_due:
            return
        began = time.monotonic()
        row = self.connection.execute(self._queries["promote"], prepare=True).fetchone()
        promoted, next_in, _ = row or (0, None, 0)
        if promoted:
            self._log.debug("task.promoted", worker=self._attempts.worker, tasks=promoted)
        else:
            self._claims.took(time.monotonic() - began)
        self.wanted = self.wanted or promoted > 0
        pause = most
        if next_in is not None:  # due and yet not promoted: somebody has it locked
            pause = min(pause, next_in if next_in > 0 or promoted else LOCKED)
        self.promote_due = time.monotonic() + pause

    def claim(self, room: int) -> list[Claimed]:
        """Claim what there is ``room`` for: by the ids known, where nothing else is known to be ready, or whatever is more
        urgent of these and what the looks find."""
        worker = self._attempts.worker
        if (found := self._claims.found()) is not None:
            self._keep(found.ids)
            self._kept_due = 0.0
            if found.all and found.began >= self._owed_since:
                self._have_seen(self._owing)
        if self.knows_ids and room > 0 and (self._room.found_all or not self.wanted):
            only = self._room.types
            ids = self._ask_for(kept=only is None)
            claimed = self._claims.by_ids(worker, ids, room, only)
            self._asked_for(ids, claimed, all=only is None and len(claimed) < room)
            if claimed:
                return self._room.take(claimed, more=True)  # start them first; the next turn looks for more
        if not self.wanted:
            return []
        taken: list[Claimed] = []
        known: list[int] | None = None
        thorough, self.thorough = self.thorough, False
        kept = bool(self._kept) and time.monotonic() >= self._kept_due
        for ask in self._room.asks(thorough=thorough, all_types=kept):
            if known is None:
                known = self._ask_for(kept=kept)
            try:
                claimed = self._claims.next(worker, ask.quantity, ask.types, ask.kind, known)
            except Exception:
                # What this turn has claimed before would be held, and known to no slot: let the next reconcile free it.
                self._room.drop(taken)
                raise
            self._looked(ask, full=len(claimed) == ask.quantity)
            # With ids among them fewer than asked for are not all: others may be about to claim those that came first.
            taken += self._room.take(claimed, more=len(claimed) == ask.quantity or bool(known))
        if known:
            self._asked_for(known, taken, all=False)
        return taken

    def _looked(self, ask: Ask, *, full: bool) -> None:
        """What a look tells beyond what it has claimed: it was from the front and found all, or there may be more."""
        types = self._room.served if ask.types is None else ask.types
        if full and (self._claims.from_front or ask.kind == OTHERS):  # of the others the next looks may not ask
            self.owe(types)
        elif self._claims.from_front and not full:
            self._have_seen(types)

    def _have_seen(self, types: Collection[str]) -> None:
        self._owing.difference_update(tuple(types))
        self._at_any_cost = self._at_any_cost and self.owed

    def _ask_for(self, *, kept: bool) -> list[int]:
        """Which ids to ask for now, in this order: with ``kept`` the kept ones, then those heard since the last claim."""
        ids, self._heard = self._heard, []
        if len(ids) > 1:
            self.owe()  # many came at once: there may be more than were told of
        if kept:
            ids, self._kept = list(dict.fromkeys(self._kept + ids)), []
        return ids

    def _asked_for(self, ids: list[int], claimed: list[Claimed], *, all: bool) -> None:
        """These were; ``all``: whatever of them is ready has been claimed, else others may have gone before it."""
        mine = {task.id for task in claimed}
        rest = [id for id in ids if id not in mine]
        if not all:
            if not self._kept:
                self._kept_due = time.monotonic() + FRONT_PAUSE
            self._keep(rest)
        elif rest:
            # Somebody else has the rest, or they are not due: then we must know when.
            self.promote_due = min(self.promote_due, time.monotonic() + NAP)

    def _keep(self, ids: list[int]) -> None:
        self._kept = list(dict.fromkeys(ids + self._kept))
        if len(self._kept) > MOST_KEPT:
            del self._kept[MOST_KEPT:]
            self.owe()
