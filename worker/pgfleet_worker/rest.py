"""Rest: how long the loop waits between two turns, and what the fleet is told of it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from pgfleet import sql
from pgfleet.crowd import CROWD, quiet_after
from pgfleet.settings import Settings
from pgfleet_worker.attempt import Attempts
from pgfleet_worker.contention import Contention
from pgfleet_worker.looks import NAP, Looks
from pgfleet_worker.outcome import Claimed
from pgfleet_worker.room import SHORT, Room
from pgfleet_worker.turns import Turns

#: Seconds of work without a pause after which the worker says that nobody need wake it; of idleness, that it sleeps.
#: The former is longer where looks from the front are dear, which a worker that has said so makes when it lies down again.
#: Short, the latter: until then it finds by looking what it would have been told of at once (4.5 ms instead of 1).
BUSY = 0.1
IDLE = 0.01
#: Seconds between looks while some creator's transaction is still open unheard.
VIGIL = 0.02
#: Each is so much longer than the one before, so that they take a tenth of the time that transaction has been open.
VIGIL_GROWS = 1.1
MOST_VIGIL = 0.5
#: More of a crowd than :data:`~pgfleet.crowd.CROWD` each poll so much less often, up to so many seconds.
MOST_POLL = 30.0
#: Seconds after which one that has left others' work to them looks whether they do it, where there was more of it.
AGAIN = 1.0
#: Seconds since it last had work for which one that leads does so.
LEADING = 30.0
#: Looks while the crowd is told of nothing, by each who leads it.
LOOKS = 20
#: Seconds that tasks take which those who lead a crowd do faster alone.
BRIEF = 0.001
#: Seconds between two looks at the slots while tasks are queued for them.
TICK = 0.002
#: Seconds between looks of a worker that no notification reaches.
DEAF_POLL = 0.25


class Rest:
    """Decides each pause. ``queued()`` tells how many claimed tasks wait for a slot."""

    def __init__(
        self,
        settings: Settings,
        looks: Looks,
        attempts: Attempts,
        room: Room,
        turns: Turns,
        queued: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._looks = looks
        self._attempts = attempts
        self._room = room
        self._turns = turns
        self._queued = queued
        self._contention = Contention()
        self._queries = sql.queries("workers")
        self._vigil = VIGIL
        #: Whose creating may have begun before it was said that we sleep, and goes on; None where that is not known yet.
        self._unheard: set[str] | None = None
        self._polled = 0.0
        self._spread = 1.0
        self._again = float("inf")
        self._active_since = 0.0
        self._idle = True
        self._idle_since = 0.0
        self._spare = False  # was what was claimed last left to us by others who look for it, too?
        self._looking = True  # asleep by our own word, but somebody may have created a task before hearing it
        #: Does no notification reach this worker?
        self.deaf = False
        #: What the workers table says of us.
        self.asleep = True

    def begin_anew(self) -> None:
        """After a reconnect. What the table says after a crash is not known: say it."""
        self._say_asleep(False)
        self._polled = self._idle_since = 0.0

    def pause(self, claimed: Sequence[Claimed]) -> float:
        """Seconds until the next turn, unless something is heard before; ``claimed``: what this one has claimed."""
        now = time.monotonic()
        self._looks.wanted = True
        if claimed:
            self._spare = self._turns.follows and not self.deaf and self._is_spare()
            if self._spare and not self._room.found_all:
                self._again = now + AGAIN
        if (claimed or self._room.is_full) and not self._spare:
            self._idle_since = now
            if self._idle:
                # Work begins now, not when it lay down: else each worker that one task woke would say that it is awake, look
                # each millisecond and say that it sleeps.
                self._idle = False
                self._active_since = now
            if self.asleep and now > self._busy_from:
                self._say_asleep(False)
            return self._at_work(bool(claimed), now)
        self._idle = True
        if self._spare and self._queued():
            self._looks.wanted = False
            return NAP
        return self._when_idle(now)

    def pause_by_order(self) -> float:
        """The same for a worker that an operator has told to take nothing: nobody need wake it."""
        if self.asleep:
            self._say_asleep(False)
        return self._settings.poll

    def _at_work(self, worked: bool, now: float) -> float:
        if self._room.has_more:
            return 0.0
        if worked or self._queued():
            return TICK  # time for a batch to gather
        if self.asleep:
            return min(self._settings.poll, max(NAP, self._busy_from - now))
        return self._settings.poll

    @property
    def _busy_from(self) -> float:
        return self._active_since + max(BUSY, self._looks.front_pause)

    def _when_idle(self, now: float) -> float:
        if self._queued():
            self._idle_since = now  # claimed ahead and not begun: that is not idle, and the slots want tending
            return NAP
        if self._looks.knows_ids and self._room.found_all and not self._room.is_full:
            return 0.0  # they waited while others were known to be ready, and are now to be asked for
        if not self.asleep:
            if not self._spare and now - self._idle_since < IDLE:
                return NAP
            if self.deaf:
                return min(self._settings.poll, DEAF_POLL)
            self._say_asleep(True)
            self._looking = True
            self._vigil, self._unheard = VIGIL, None
        if self._looking:
            # Who created before hearing that we sleep told nobody: look once more now, and whenever one of them has committed.
            before = self._unheard
            now_creating = self._creators()
            if before is not None:  # one that is prepared (two-phase commit) is called otherwise from then on
                now_creating = {name for name in now_creating if name in before or name.startswith("-1/")}
            self._unheard = now_creating
            if self._unheard == before:
                self._vigil = min(self._vigil * VIGIL_GROWS, MOST_VIGIL)
                return self._vigil
            self._looking = bool(self._unheard)
            self._looks.once_more()
            return 0.0
        if self._turns.leads:
            # Nobody is told of what comes now (see pgfleet.crowd), and again after a pause in which all was claimed.
            quiet = quiet_after(self._turns.sleepers)
            worked = now - self._idle_since
            if worked < LEADING and min(worked, now - self._turns.called) < 2 * quiet:
                return max(NAP, quiet / LOOKS)
        poll_due = min(self._polled + self.poll * self._spread, self._again)
        if now >= poll_due:
            self._looks.thorough = True
            self._polled, self._again = now, float("inf")
            self._spread = random.uniform(0.8, 1.0)  # noqa: S311 - spreads the fleet
            return 0.0
        due = min(poll_due, self._looks.promote_due, self._turns.due) - now
        if self._looks.owed and not self._room.is_full:
            # There may be more than we were told of, where no lane leads: when the look is affordable.
            return min(due, max(NAP, self._looks.front_in))
        self._looks.wanted = False
        return due

    def _is_spare(self) -> bool:
        """Would those who lead have done all that we hold, and better?"""
        longest = self._room.longest
        if longest < BRIEF and self._room.found_all:
            return True
        return longest < SHORT and self._contention.is_high()

    @property
    def poll(self) -> float:
        """Seconds between two looks that nothing asked for. Those of a crowd that sleep share them: each finds what any other
        would."""
        shared = min(self._settings.poll * min(self._turns.alive, self._turns.sleepers) / CROWD, MOST_POLL)
        return max(self._settings.poll, shared)

    def _say_asleep(self, asleep: bool) -> None:
        self._looks.connection.execute(self._queries["set_sleeping"], (self._attempts.worker, asleep), prepare=True)
        self.asleep = asleep

    def _creators(self) -> set[str]:
        """Who is creating and may not know that we sleep."""
        conn = self._looks.connection
        row = conn.execute(self._queries["is_quiet"], prepare=True).fetchone()
        if row and row[0]:
            return set()
        return {name for (name,) in conn.execute(self._queries["creators"], prepare=True).fetchall()}
