"""Creating tasks for many requests at once: those that come while an insert is under way share the next.

The first request inserts its task at once, alone. Others that arrive meanwhile queue up; when the first has its answer, it
sends the next insert for all of them: one statement, one commit, one flush for the lot. One of those waits for that insert's
answer while the first one's requests are answered, and goes on in the same way. No timer, no thread, no delay for a lone
request. Figures: README.md.
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, field

import psycopg

from pgfleet import db, tasks
from pgfleet.errors import PgfleetError
from pgfleet_api.connections import Connections
from pgfleet_api.notifier import Kind, Notifier
from pgfleet_api.places import Places

#: Tasks in one statement, at most.
BATCH = 100

#: What a task that can't be inserted raises. Others may come after the insert's commit, while the fleet is told.
FAULTS = (PgfleetError, psycopg.DataError, psycopg.IntegrityError)

Answer = tuple[int, bool] | None


@dataclass
class _Item:
    """One request's task. ``turn`` is held until it is answered, or its request is made to lead ``insert``."""

    wanted: tasks.Wanted
    turn: threading.Lock = field(default_factory=threading.Lock)
    insert: _Insert | None = None
    following: _Item | None = None
    answer: Answer = None
    error: BaseException | None = None


@dataclass
class _Insert:
    """The insert of a batch; ``sent`` where it is under way already."""

    batch: list[_Item]
    sent: tasks.Sent | None = None


class Creator:
    """Inserts tasks, and has the fleet told of them after the commit. Thread-safe.

    ``keyed``: the places of requests with a unique key, while their tasks are inserted.
    """

    def __init__(self, connections: Connections, notifier: Notifier, keyed: Places) -> None:
        self._connections = connections
        self._notifier = notifier
        self._lock = threading.Lock()
        self._keyed = keyed
        self._waiting: list[_Item] = []
        self._led = False

    def create(self, wanted: tasks.Wanted) -> Answer:
        """As :class:`pgfleet.tasks.Sent` for one task, committed when it returns. Raises its errors."""
        item = _Item(wanted)
        if wanted.unique_key is not None:
            # It may have to wait for another transaction that holds its key. Nobody else should: not in the same insert, nor,
            # where many wait like that, for a thread.
            with self._keyed:
                self._finish(_Insert([item]))
        else:
            self._join(item)
        if item.error is not None:
            raise item.error
        return item.answer

    def _join(self, item: _Item) -> None:
        item.turn.acquire()
        insert = None
        with self._lock:
            self._waiting.append(item)
            if not self._led:
                self._led = True
                insert = self._next()
        if insert is None:
            item.turn.acquire()  # until it is answered, or has to lead
            # One at a time: all of them at once would only wake to wait for the interpreter.
            if item.following is not None:
                item.following.turn.release()
            insert = item.insert
            if insert is None:
                return
        try:
            self._finish(insert)
        finally:
            self._hand_over(item, insert.batch)

    def _hand_over(self, leader: _Item, batch: list[_Item]) -> None:
        """Send the next insert, if there is one to be made, and then wake those of ``batch`` and who leads it, in turn."""
        woken = [item for item in batch if item is not leader]
        insert = None
        with self._lock:
            if self._waiting:
                heir = self._waiting[0]
                insert = heir.insert = self._next()  # not when it wakes: who comes in between must find it led
                woken.append(heir)
            else:
                self._led = False
        try:
            # Over a connection at hand, or else the heir connects: nobody here should have to wait for that.
            if insert is not None and (conn := self._connections.take_idle()) is not None:
                insert.sent = self._sent(conn, insert.batch)
        finally:
            for item, following in itertools.pairwise(woken):
                item.following = following
            if woken:
                woken[0].turn.release()

    def _next(self) -> _Insert:
        batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
        return _Insert(batch)

    def _sent(self, conn: db.Patient, batch: list[_Item]) -> tasks.Sent:
        try:
            tell = self._notifier.take_turn({_kind(item) for item in batch})
            return tasks.Sent(conn, [item.wanted for item in batch], tell=tell)
        except BaseException:
            self._connections.give_back(conn)
            raise

    def _finish(self, insert: _Insert) -> None:
        """Answer every item of its batch, whatever happens."""
        batch = insert.batch
        try:
            sent = insert.sent or self._sent(self._connections.take_one(), batch)
            try:
                inserted = sent.inserted()
            finally:
                self._connections.give_back(sent.conn)
        except (PgfleetError, psycopg.Error) as error:
            if len(batch) > 1 and isinstance(error, FAULTS) and not db.is_away(error):
                for item in batch:  # one of them is at fault: each alone, so that it fails alone
                    self._finish(_Insert([item]))
                return
            for item in batch:
                item.error = error
        except BaseException as error:
            for item in batch:
                item.error = error
            raise
        else:
            for item, answer in zip(batch, inserted.answers, strict=True):
                item.answer = answer
            if inserted.sleepers is not None:
                self._notifier.told({_kind(item) for item in batch}, inserted.sleepers)
            else:
                self._notifier.tell([(item.answer[0], _kind(item)) for item in batch if item.answer and item.answer[1]])


def _kind(item: _Item) -> Kind:
    return item.wanted.type, item.wanted.node
