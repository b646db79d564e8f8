"""The worker's loop: look, claim, hand out, rest. Every verb is a function below or next door."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pgfleet.errors import LostWorker
from pgfleet.settings import Settings
from pgfleet_worker.declaration import Declaration
from pgfleet_worker.handler import Handler
from pgfleet_worker.keeper import Keeper
from pgfleet_worker.life import Life
from pgfleet_worker.outcome import Claimed

#: Seconds within which a worker that is awake finds a task that is due: it is told of none.
AWAKE = 1.0
#: Seconds without a turn, at most, while notifications come that are for others.
HEED = 5.0


class Worker(Life):
    """One worker process. :meth:`run` returns after :meth:`stop`, once everything it held is settled or given back."""

    def __init__(
        self,
        settings: Settings,
        handlers: dict[str, Handler],
        schedules: Sequence[Declaration] = (),
        *,
        listen: bool = True,
        keeper: Keeper | None = None,
    ) -> None:
        super().__init__(settings, handlers, schedules, listen=listen, keeper=keeper)
        self._put_off = False

    def _turn(self) -> None:
        # A task that was heard of comes first: all else can wait for the next turn, which is milliseconds away.
        self._put_off = self._looks.has_heard and not self._put_off
        if not self._put_off:
            self._see_to_the_rest()
        room = self._room.measure(self._threads, self._coroutines, self._claims.usual + self._settler.usual)
        if self._orders.standing != "work":
            self._tend()
            self._hear(self._rest.pause_by_order())
            return
        if self._room.reopened:
            self._looks.go_on()
        claimed = self._looks.claim(room)
        if claimed:
            self._turns.claimed()
        self._hand_out(claimed)
        self._tend()
        self._listen(self._rest.pause(claimed))

    def _see_to_the_rest(self) -> None:
        self._hear_heart()
        if self._lease.lost:
            raise LostWorker(f"Worker {self._lease.worker} has lost its lease.")
        self._obey()
        self._looks.reconcile()
        self._looks.learn()
        self._looks.promote(self._rest.poll if self._rest.asleep else min(self._rest.poll, AWAKE))

    def _obey(self) -> None:
        """Do as the operators say: pause, go on, or end once all is done; call off the tasks they want cancelled."""
        changed = self._orders.ask(self._looks.connection, deaf=self._rest.deaf)
        if changed:
            self._firing.hold(self._orders.standing != "work")
        if (changed and self._orders.standing != "work") or self._orders.unstarted:
            self._orders.unstarted = False
            self._give_back(self._threads.take_back() + self._coroutines.take_back())
        elif changed:
            self._looks.begin_anew()
            self._looks.once_more()
            self._rest.begin_anew()
        if self._orders.standing == "drain" and not self._room.held:
            self.stop()

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
        self._give_back(self._room.take_back(self._threads, self._coroutines))

    def _listen(self, timeout: float) -> None:
        until = time.monotonic() + min(timeout, HEED)
        while True:
            heard = self._hear(timeout)
            own = self._bell.own()
            for_all = sorted(set(heard) - set(own)) if own else heard
            mine = self._turns.take(for_all, self._lease.standing, own)
            overflowed = self._bell.overflowed()
            timeout = min(until, self._turns.due) - time.monotonic()
            if mine or overflowed or not heard or self._bell.rung or min(timeout, self._orders.due_in) <= 0:
                break
            # What was heard is for others, as most is in a crowd: no reason for a turn.
        self._looks.heard(mine, overflowed=overflowed)

    def _hear(self, timeout: float) -> list[int]:
        timeout = min(timeout, self._orders.due_in)
        self._bell.waiting = timeout > 0
        if timeout > 0 and (self._room.changed or self._stopping):
            timeout = 0.0
        heard = self._bell.wait(timeout)
        self._orders.heard(self._bell.called())
        if self._bell.rescheduled():
            self._firing.ring()
        return heard
