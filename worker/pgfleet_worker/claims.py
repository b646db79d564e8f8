"""What to claim next: by notified id, behind the watermark of each lane, or from the queue's front.

A lane is a (type, priority); its watermark is the last id this worker claimed there. Behind it the claim costs the same
however many dead entries a long transaction keeps at the queue's front. What lands before it (a late commit, a retried
task) or in a lane not yet known (another priority) is found by the id in its notification, in one claim and one order with
what the lanes lead to, or by a look from the front, which may have to walk all those dead entries: so what such looks take
beyond an ordinary claim is at most a thirtieth of the time, and where one takes much it is made beside the work (see
overlooked.py). Beyond: where the network or the machine is slow, so is everything, and not looking would help nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import itemgetter

from pgfleet import db, sql
from pgfleet.prepared import Prepared, number_array, text_array
from pgfleet.settings import Settings
from pgfleet_worker.outcome import Claimed, claimed_row
from pgfleet_worker.overlooked import Found, Overlooked

Lane = tuple[str, int]

#: Lanes remembered, at 3 µs a claim each; the least recently used are dropped and found again from the front.
MOST_LANES = 64
#: What a look from the front takes beyond an ordinary claim may be this part of the time...
FRONT_SHARE = 0.03
#: ...or more, so that the next look comes within so many seconds...
MOST_FRONT_PAUSE = 30.0
#: ...and while the lanes are full comes no more often than this, in seconds: what bounds a newcomer's wait.
FRONT_PAUSE = 0.05
#: Seconds: where looks from the front cost so much beyond an ordinary claim the next is made beside the work.
DEAR = 0.03
#: Seconds until the next look after one that failed, at least.
AGAIN = 1.0

#: The next look from the front is due when the one under way is over.
UNDER_WAY = float("inf")

#: Kinds of looks: at all types, or at all that threads run, or at the short ones and the others apart, whichever these are at
#: the time.
ALL, FOR_THREADS, SHORT_ONES, OTHERS = "all", "for threads", "short", "others"

_ID, _LANE = itemgetter(0), itemgetter(1, 5)


class Claims:
    """Claims over one connection. ``types`` is what the worker serves; and ``apart``, rare ones, which get no lanes: they are
    found by their ids and from the front, and behind watermarks cost nothing. ``meanwhile()`` is called while Postgres
    makes a claim by ids, ``ring()`` from another thread when a look beside the work is over."""

    def __init__(
        self,
        settings: Settings,
        types: Sequence[str],
        apart: Sequence[str] = (),
        meanwhile: Callable[[], None] = lambda: None,
        ring: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._lane_types = text_array(types)
        self._types = text_array([*types, *apart])
        self._apart = frozenset(apart)
        self._meanwhile = meanwhile
        self._found: Collection[int] = ()
        self._known_then: Collection[Lane] = ()
        self._beside = Overlooked(settings, [*types, *apart], ring)
        self._statements: dict[str, Prepared] = {}
        self._lanes: dict[Lane, int] = {}
        self._notified: dict[Lane, int] = {}
        #: Of the lanes that have gone back, how far they had come.
        self._gone_back: dict[Lane, int] = {}
        # By the kind of look, not by its types: of these every set would be looked for at once, whatever that costs.
        self._front_due: dict[str, float] = {}
        self._excess: dict[str, float] = {}
        self._cost: dict[str, float] = {}
        self._last: dict[str, float] = {}
        #: Seconds that a claim takes where it has nothing to walk, as a moving average.
        self.usual = 0.0
        self._asked = 0.0
        self.conn: db.Connection | None = None
        #: Was the last :meth:`next` a look from the front?
        self.from_front = False

    def connect(self) -> db.Connection:
        """Connect anew. What a crash can lose of a commit here is a claim: the task is still fresh, and fenced."""
        self.close()
        self.conn = db.connect(self._settings, "pgfleet claim", synchronous_commit="off", engine=True)
        queries = sql.queries("workers")
        self._statements = {
            name: Prepared(self.conn, name, queries[name])
            for name in ("claim_ids", "claim_lanes", "claim_lanes_and_ids", "claim_front")
        }
        self._lanes.clear()
        self._notified.clear()
        self._gone_back.clear()
        self._found = ()
        self._front_due.clear()
        self._excess.clear()
        self._cost.clear()
        self._last.clear()
        self.usual = 0.0
        return self.conn

    def close(self) -> None:
        """Close the connection."""
        if self.conn is not None:
            self.conn.close()
        self.conn = None

    def by_ids(
        self, worker: str, ids: Sequence[int], quantity: int, types: tuple[str, ...] | None = None
    ) -> list[Claimed]:
        """Claim of ``ids`` what is still ready and ours to take, up to ``quantity``."""
        began = time.monotonic()
        named = self._named(types)
        claimed = self._claim("claim_ids", worker, named, quantity, number_array(ids), meanwhile=self._meanwhile)
        self.took(time.monotonic() - began)
        self._raise_told(claimed)
        return claimed

    def next(
        self,
        worker: str,
        quantity: int,
        types: tuple[str, ...] | None = None,
        kind: str = ALL,
        ids: Sequence[int] = (),
    ) -> list[Claimed]:
        """Claim up to ``quantity`` tasks, of ``types`` only where given: from the front when a look of this ``kind`` is due
        there and not dear, else what lies behind the watermarks and, in one order with it, what is ready of ``ids``."""
        due = self._front_due.get(kind)
        self.from_front = due is None or time.monotonic() >= due
        if self.from_front and due is not None and self._cost.get(kind, 0.0) > DEAR:
            self.from_front = False
            self._front_due[kind] = UNDER_WAY
            self._beside.begin(worker, self._lanes)
        if self.from_front:
            return self.front(worker, quantity, types, kind)
        lanes = [lane for lane in self._lanes if types is None or lane[0] in types]
        if not lanes:
            return self.by_ids(worker, ids, quantity, types) if ids else []
        behind = (
            text_array(t for t, _ in lanes),
            number_array(p for _, p in lanes),
            number_array(self._lanes[lane] for lane in lanes),
        )
        began = time.monotonic()
        if not ids:
            claimed = self._claim("claim_lanes", worker, self._lane_types, quantity, *behind)
            self.took(time.monotonic() - began)
            self._advance(claimed, exhausted=len(claimed) < quantity, types=types)
            self._come_back(lanes, [] if len(claimed) < quantity else claimed)
            return claimed
        claimed = self._claim("claim_lanes_and_ids", worker, self._named(types), quantity, *behind, number_array(ids))
        self.took(time.monotonic() - began)
        known = set(lanes)
        self._raise_told([task for task in claimed if _LANE(task) not in known])
        # One that names a node may lie far behind what is ready in its lane: those without an id of ours alone tell how far
        # that has been claimed. And fewer than asked for tell nothing: others may be about to claim the ids that came first.
        told = set(ids)
        led = [task for task in claimed if _LANE(task) in known and task.id not in told]
        self._advance(led, exhausted=False, types=types)
        self._come_back(lanes, led + [task for task in claimed if task.id in told and task.id in self._found])
        return claimed

    def front(self, worker: str, quantity: int, types: tuple[str, ...] | None = None, kind: str = ALL) -> list[Claimed]:
        """Claim from the queue's front, whatever that costs, and set when the next such look is due."""
        began = time.monotonic()
        claimed = self._claim("claim_front", worker, self._named(types), quantity)
        self._looked(kind, time.monotonic() - began)
        self._advance(claimed, exhausted=len(claimed) < quantity, types=types)
        if claimed and len(claimed) == quantity:
            cut = claimed[-1].priority  # of the more urgent it has claimed all
            self._go_back({_LANE(task): task.id for task in claimed if task.priority == cut})
        return claimed

    def found(self) -> Found | None:
        """A look beside the work that is over, once."""
        found = self._beside.end()
        if found is not None:
            self._found, self._known_then = frozenset(found.ids), found.lanes.keys()
            self._go_back(found.behind)
            for kind in [kind for kind, due in self._front_due.items() if due == UNDER_WAY]:
                if found.seconds is None:
                    self._cost.pop(kind, None)  # the next is a claim, whose failure is seen
                    pause = (time.monotonic() - found.began) / FRONT_SHARE
                    self._front_due[kind] = time.monotonic() + min(MOST_FRONT_PAUSE, max(AGAIN, pause))
                else:
                    self._looked(kind, found.seconds)
                if found.began < self._asked:
                    self._front_due[kind] = 0.0
        return found

    def _looked(self, kind: str, seconds: float) -> None:
        """A look from the front took so long: when is the next one due?"""
        excess = max(0.0, seconds - self.usual)
        # Of the last two looks the cheaper counts: dead entries slow both, a link that stood still for a while only one.
        cost = min(excess, self._excess.get(kind, excess))
        self._excess[kind], self._cost[kind], self._last[kind] = excess, cost, time.monotonic()
        self._front_due[kind] = time.monotonic() + _pause_for(cost)

    def took(self, seconds: float) -> None:
        """So long took a statement on this connection that has nothing to walk: what all of them take at least."""
        self.usual += (seconds - self.usual) * 0.2

    @property
    def front_pause(self) -> float:
        """Seconds between two looks from the front of one kind: the dearest that has been made in the last minute."""
        since = time.monotonic() - 2 * MOST_FRONT_PAUSE
        return _pause_for(max((c for kind, c in self._cost.items() if self._last[kind] > since), default=0.0))

    @property
    def front_in(self) -> float:
        """Seconds until every kind of look from the front may be taken again."""
        return max(self._front_due.values(), default=0.0) - time.monotonic()

    def look_from_the_front(self) -> None:
        """Let the next :meth:`next` look from the front, whatever that costs; where it is dear, beside the work, and anew where
        one is under way: what has been committed by now it must see."""
        self._asked = time.monotonic()
        for kind, due in self._front_due.items():
            if due != UNDER_WAY:
                self._front_due[kind] = 0.0

    def _named(self, types: Sequence[str] | None) -> bytes:
        return self._types if types is None else text_array(types)

    def _claim(
        self,
        name: str,
        worker: str,
        types: bytes,
        quantity: int,
        *where: bytes,
        meanwhile: Callable[[], None] | None = None,
    ) -> list[Claimed]:
        with db.ours():
            statement = self._statements[name]
            statement.send(worker.encode(), types, b"%d" % quantity, *where)
            if meanwhile is not None:
                meanwhile()
            return statement.rows(claimed_row)

    def _advance(self, claimed: list[Claimed], *, exhausted: bool, types: Sequence[str] | None) -> None:
        self._raise(self._lanes, claimed)
        if exhausted and types is None:
            for lane, id in self._notified.items():
                self._lanes[lane] = max(id, self._lanes.get(lane, id))
            self._notified.clear()
        while len(self._lanes) > MOST_LANES:
            del self._lanes[next(iter(self._lanes))]

    def _go_back(self, reached: Mapping[Lane, int]) -> None:
        """So far a look from the front has come, and there may be many more before the watermark: a bulk that was committed
        late, tasks retried or due at once. The lanes lead to them, at a claim's price; the last one walks what lies between."""
        for lane, id in reached.items():
            before = self._lanes.get(lane, id)
            if id < before:
                self._lanes[lane] = id
                self._gone_back[lane] = max(before, self._gone_back.get(lane, before))

    def _come_back(self, lanes: Collection[Lane], claimed: list[Claimed]) -> None:
        """Of ``lanes``, those that have gone back and led to nothing ``claimed`` before their marks need not be walked again:
        what more urgent ones kept from being reached the next look finds anew."""
        led = {_LANE(task) for task in claimed if task.id < self._gone_back.get(_LANE(task), 0)}
        for lane in (self._gone_back.keys() & lanes) - led:
            if lane in self._lanes:
                self._lanes[lane] = max(self._lanes[lane], self._gone_back[lane])
            del self._gone_back[lane]

    def _raise_told(self, claimed: list[Claimed]) -> None:
        """What was claimed by its id tells nothing of what lies before it: a watermark only once a look found no more.

        But where a look from the front beside the work knew no watermark, it left nothing out before what it found.
        """
        found = [task for task in claimed if task.id in self._found and _LANE(task) not in self._known_then]
        self._raise(self._lanes, found)
        self._raise(self._notified, [task for task in claimed if task not in found] if found else claimed)

    def _raise(self, lanes: dict[Lane, int], claimed: list[Claimed]) -> None:
        # In the order claimed a lane's ids ascend. A lane goes to the end of the dict, so that the first is the least
        # recently used; and here never back: what a look from the front finds before its watermark is the last there mostly.
        last = dict(zip(map(_LANE, claimed), map(_ID, claimed), strict=True))
        for lane, id in last.items():
            if lane[0] not in self._apart:
                lanes[lane] = max(id, lanes.pop(lane, id))


def _pause_for(cost: float) -> float:
    return min(MOST_FRONT_PAUSE, max(FRONT_PAUSE, cost / FRONT_SHARE))
