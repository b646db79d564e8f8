"""The load: creators with a ledger of their own, and an operator who cancels and retries."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg

from pgfleet import tasks
from pgfleet.errors import DatabaseAway, InvalidTask, PgfleetError
from tests.chaos.files import torn

#: Kinds of work and how often each comes, of 1000.
MIX = {
    "noop": 355, "bulk": 20, "nap": 110, "nap_async": 60, "export": 90, "flaky": 80, "doomed": 20, "long": 6,
    "heeding": 15, "timed": 8, "deaf": 3, "stubborn": 2, "child": 15, "limited": 30, "steps": 36, "delayed": 70, "unique": 60,
    "targeted": 15, "everywhere": 5,
}  # fmt: skip
#: Readers of the demo library, and one who has no books.
READERS = (1, 2, 3)
UNIQUE_KEYS = 12
#: Unended tasks at which the creators wait: more than the machine can do would only be waited for at the end.
MOST_BACKLOG = 500
#: Tasks in one create_tasks call.
BULK = 10


@dataclass
class Ledger:
    """What the creators know: by key, the id that was answered (None: the answer was lost) and the kind."""

    ids: dict[str, int | None] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    #: Ids answered to creations with a unique key: the task's own, or the unfinished one's that was there.
    unique: list[int] = field(default_factory=list)
    #: Tasks that the operator asked to cancel, and retries that were granted, by task.
    cancelled: set[int] = field(default_factory=set)
    retried: dict[int, int] = field(default_factory=dict)
    recent: list[int] = field(default_factory=list)
    lost_answers: int = 0
    #: Tasks that have not ended, as the reader last saw.
    backlog: int = 0

    def answered(self, key: str, id: int) -> None:
        self.ids[key] = id
        self.recent.append(id)
        if len(self.recent) > 2000:
            del self.recent[:1000]


class Client(threading.Thread):
    """A thread with a connection of its own that comes back after every loss."""

    def __init__(self, name: str, url: str, seed: str) -> None:
        super().__init__(name=name, daemon=True)
        self._url = url
        self.random = random.Random(f"{seed} {name}")
        self.ending = threading.Event()
        self.problem: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.ending.is_set():
                try:
                    with psycopg.connect(
                        self._url, autocommit=True, application_name=f"soak {self.name}", connect_timeout=3
                    ) as conn:
                        self.work(conn)
                except (psycopg.OperationalError, DatabaseAway):
                    self.ending.wait(0.2)
        except BaseException as error:  # told in the summary: a soak without load proves nothing
            self.problem = error

    def work(self, conn: psycopg.Connection[Any]) -> None:
        raise NotImplementedError

    def end(self) -> None:
        self.ending.set()


class Creator(Client):
    """Creates ``rate`` tasks a second, and writes down each before it asks for it and after it was answered."""

    def __init__(self, name: str, url: str, seed: str, ledger: Ledger, rate: float, nodes: int) -> None:
        super().__init__(name, url, seed)
        self._ledger = ledger
        self._rate = rate
        self._nodes = nodes
        self._numbers = itertools.count(1)

    def work(self, conn: psycopg.Connection[Any]) -> None:
        due = time.monotonic()
        while not self.ending.wait(max(0.0, due - time.monotonic())):
            # Never in bursts: what an outage kept from being created is not made up for.
            due = max(due + 1 / self._rate, time.monotonic() - 0.5)
            if self._ledger.backlog > MOST_BACKLOG:
                continue
            kind = self.random.choices(list(MIX), list(MIX.values()))[0]
            if kind == "bulk":
                self._bulk(conn)
            else:
                self._one(conn, kind)

    def _key(self, kind: str) -> str:
        key = f"{self.name}-{next(self._numbers)}"
        self._ledger.ids[key], self._ledger.kinds[key] = None, kind
        return key

    def _one(self, conn: psycopg.Connection[Any], kind: str) -> None:
        key = self._key(kind)
        type, data, options = self._wanted(kind)
        data["key"] = key
        arguments: dict[str, Any] = {"created_by": 0, "priority": self.random.choice([0, 0, 0, 5, -3]), **options}
        try:
            if kind == "everywhere":
                id = tasks.create_for_all_nodes(conn, type, data, created_by=0)
            elif self.random.random() < 0.5:
                id = tasks.create(conn, type, data, **arguments)
            else:
                id, _ = tasks.insert(conn, type, data, **arguments)
                tasks.notify(conn, [id])
        except (psycopg.OperationalError, DatabaseAway):
            self._ledger.lost_answers += 1
            raise
        except InvalidTask:
            if kind != "everywhere":  # no worker lives just now that could do it
                raise
            return
        if "unique_key" in options:
            self._ledger.unique.append(id)
        else:
            self._ledger.answered(key, id)

    def _bulk(self, conn: psycopg.Connection[Any]) -> None:
        keys = [self._key("noop") for _ in range(BULK)]
        try:
            made = tasks.create_many(conn, "soak_noop", [{"key": key} for key in keys], created_by=0)
        except (psycopg.OperationalError, DatabaseAway):
            self._ledger.lost_answers += BULK
            raise
        for key, id in zip(keys, made, strict=True):
            self._ledger.answered(key, id)

    def _wanted(self, kind: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """(type, data, options) of a task of that kind."""
        roll = self.random
        match kind:
            case "nap":
                return "soak_nap", {"seconds": roll.uniform(0.005, 0.3)}, {}
            case "nap_async":
                return "soak_nap_async", {"seconds": roll.uniform(0.005, 0.5)}, {}
            case "long":
                return "soak_nap", {"seconds": roll.uniform(2, 8)}, {}
            case "heeding":
                return "soak_heeding", {"seconds": roll.uniform(1, 6)}, {}
            case "limited":
                return "soak_limited", {"seconds": roll.uniform(0.01, 0.1)}, {}
            case "child":
                return "soak_child", {"dies": roll.choice([0, 0, 0, 0, 1, 3])}, {}
            case "steps":
                return roll.choice(["soak_steps", "soak_steps_async", "soak_steps_child"]), {}, {}
            case "targeted":
                return "soak_nap", {"seconds": 0.05}, {"node": f"node-w{roll.randint(1, self._nodes)}"}
            case "everywhere":
                return "soak_nap", {"seconds": 0.05}, {}
            case "timed" | "deaf" | "stubborn" | "poison":
                return f"soak_{kind}", {}, {}
            case "export":
                reader = roll.choice(READERS)
                return "csv_export", {"owner_id": reader}, {"created_by": reader}
            case "flaky":
                return "soak_flaky", {"fails": roll.randint(0, 3)}, {}
            case "doomed":
                return "soak_doomed", {"at_once": roll.random() < 0.5}, {}
            case "delayed":
                return "soak_noop", {}, {"delay": timedelta(seconds=roll.uniform(0.1, 8))}
            case "unique":
                return "soak_nap", {"seconds": 0.05}, {"unique_key": f"key {roll.randrange(UNIQUE_KEYS)}"}
            case _:
                return "soak_noop", {}, {}

    def poison(self) -> None:
        """One task that takes its workers with it; none while Postgres is away."""
        with (
            contextlib.suppress(psycopg.OperationalError, DatabaseAway),
            psycopg.connect(self._url, autocommit=True) as conn,
        ):
            self._one(conn, "poison")


class Operator(Client):
    """Cancels tasks that were just created, and retries some that ended badly."""

    def __init__(self, url: str, seed: str, ledger: Ledger) -> None:
        super().__init__("operator", url, seed)
        self._ledger = ledger
        self._cursor = 0

    def work(self, conn: psycopg.Connection[Any]) -> None:
        while not self.ending.wait(self.random.uniform(0.2, 0.6)):
            recent = self._ledger.recent[-60:]
            match self.random.choices(["recent", "started", "retry"], [4, 4, 3])[0]:
                case "recent" if recent:
                    self._cancel(conn, self.random.choice(recent))
                case "started":
                    rows = conn.execute(
                        "select id from tasks where status = 'started' and type <> 'soak_poison'"
                    ).fetchall()
                    if rows:
                        self._cancel(conn, self.random.choice(rows)[0])
                case "retry":
                    self._retry(conn)

    def _cancel(self, conn: psycopg.Connection[Any], id: int) -> None:
        self._ledger.cancelled.add(id)  # before it is asked for: the answer may be lost
        try:
            tasks.cancel(conn, id)
        except PgfleetError as error:
            if isinstance(error, DatabaseAway):
                raise

    def _retry(self, conn: psycopg.Connection[Any]) -> None:
        page = tasks.find(conn, status=["failure", "cancelled", "crashed"], limit=30)
        # Not what is made for all nodes: what becomes of the whole would be another account.
        rows = [
            row for row in page.rows
            if row["type"] != "soak_poison" and row["parent"] is None and row["worker"] != "all nodes"
        ]  # fmt: skip
        if rows:
            row = self.random.choice(rows)
            self._ledger.retried[row["id"]] = self._ledger.retried.get(row["id"], 0) + 1
            try:
                tasks.retry(conn, row["id"], reset_failure_count=True)
            except PgfleetError as error:
                if isinstance(error, DatabaseAway):
                    raise


class Reader(Client):
    """Looks at each export as soon as its row can be seen: the file must be there, and whole. And at the backlog."""

    def __init__(self, url: str, seed: str, ledger: Ledger, folder: Path) -> None:
        super().__init__("reader", url, seed)
        self._ledger = ledger
        self._folder = folder
        self._seen: set[int] = set()
        self.torn: list[str] = []

    def work(self, conn: psycopg.Connection[Any]) -> None:
        for turn in itertools.count():
            if self.ending.wait(0.2):
                return
            if turn % 5 == 0:
                row = conn.execute(
                    "select count(*) from tasks where status in ('waiting', 'fresh', 'started')"
                ).fetchone()
                self._ledger.backlog = row[0] if row else 0
            last = max(self._seen, default=0)
            # Ids are given before the commit, so later ones may be seen first.
            rows = conn.execute("select id, filename, sha256, bytes from exports where id > %s", [last - 1000])
            for id, filename, sha256, size in rows:
                if id not in self._seen:
                    self._seen.add(id)
                    if problem := torn(self._folder, filename, sha256, size):
                        self.torn.append(f"a reader found: {problem}")


def key_of(row: dict[str, Any]) -> str:
    """The key that the task's creator gave it."""
    return str(json.loads(row["data"])["key"])
