"""The soak's account of schedules and events finds what it is there to find."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgfleet import firing as engine
from pgfleet import schedules
from tests.chaos import firing
from tests.chaos.account import Facts
from tests.chaos.clocks import EVENT, Clock, Events, Stopper, clocks, fired
from tests.chaos.stage import HERE
from tests.chaos.work import Ledger
from tests.support.database import Database, Databases
from tests.support.fleet import WORKER, register, value
from tests.support.waiting import wait_until

TYPES = ["soak_noop", "soak_nap", "soak_nap_async", "soak_doomed", "soak_event"]


@dataclass
class Played:
    """A soak's schedules, a minute of whose due times has passed and been fired, and whose runs have ended."""

    conn: psycopg.Connection[Any]
    clocks: list[Clock]
    events: Events
    handlers: Path

    def emit(self, *, roll_back: bool) -> None:
        serial = next(self.events.serials)
        with self.conn.transaction(force_rollback=roll_back):
            schedules.emit(self.conn, EVENT, {"serial": serial})
        self.events.fates[serial] = "rolled back" if roll_back else "committed"

    def work(self) -> None:
        """Do what there is to do."""
        while rows := self.conn.execute(
            "select id, attempt, data from claim_tasks(%s, %s, 100)", [WORKER, TYPES]
        ).fetchall():
            data = [json.loads(row[2]) for row in rows]
            results = [
                json.dumps({"serial": one["event"]["payload"]["serial"]} if "event" in one else {}) for one in data
            ]
            self.conn.execute(
                "select finish_tasks(%s, %s, %s, %s)", [WORKER, [row[0] for row in rows], [row[1] for row in rows], results]
            )  # fmt: skip

    def fire(self) -> None:
        """Until all is fired that was due when this began."""
        now = value(self.conn, "select now()")
        while value(self.conn, "select exists (select from triggers where due_at <= %s)", now):
            engine.fire(self.conn)
            self.work()

    def wrong(self) -> set[str]:
        facts = Facts.read(self.conn, Ledger(), self.handlers)
        until = value(self.conn, "select min(due_at) - interval '1 second' from triggers where not fixed_delay")
        account = firing.Firing.read(self.conn, self.clocks, facts, until)
        found = {
            "due times": firing.due_times(account),
            "overlap": firing.overlap(account),
            "events": firing.events(account, self.events.fates),
            "numbers": firing.numbers(account),
        }
        return {name for name, wrong in found.items() if wrong}


@pytest.fixture(scope="module")
def played(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """Played once: what a test does to it, it takes back."""
    database = databases.migrated()
    conn = database.connect()
    conn.execute("set jit = off")  # as workers do: to compile these statements takes longer than to run them
    conn.execute((HERE / "audit.sql").read_bytes())
    register(conn, types=TYPES)
    begun = value(conn, "select now()") - timedelta(minutes=1)
    handlers = tmp_path_factory.mktemp("soak") / "ledger"
    handlers.touch()
    play = Played(conn, clocks(begun, 60), Events(), handlers)
    schedules.put_all(conn, [clock.schedule for clock in play.clocks])
    cron = next(clock for clock in play.clocks if clock.name == "cron")
    conn.execute("update triggers set due_at = %s where kind = 'cron'", [next(cron.series(begun + timedelta(hours=1)))])
    play.fire()
    rest = "select count(*) from tasks where schedule = 'rest'"
    wait_until(lambda: (play.fire(), value(conn, rest) > 1)[1])
    play.emit(roll_back=False)
    play.emit(roll_back=True)
    schedules.stop(conn)
    play.emit(roll_back=False)
    schedules.start(conn)
    play.work()
    # A clock between two looks, the queue with what it owes: as when firing is stopped at the soak's end.
    play.fire()
    schedules.stop(conn)
    wait_until(lambda: (play.work(), engine.fire(conn), not engine.has_ends(conn))[2])
    yield play
    databases.drop(database)


def test_firing_that_keeps_the_rules_has_a_clean_account(played: Played) -> None:
    assert played.wrong() == set()
    made = value(played.conn, "select count(*) from tasks where schedule = 'half-second'")
    assert made >= 118


COPY = (
    "drop index tasks_due; insert into tasks (type, data, created_by, schedule, due_at)"
    " select type, data, created_by, schedule, due_at from tasks where schedule = '{}' limit 1"
)
FIRST = "(select min(id) from tasks where schedule = '{}')"

#: What is done behind the fleet's back, and which checks must say so.
TAMPERINGS: dict[str, tuple[set[str], str]] = {
    "a due time is lost": (
        {"due times", "numbers"}, f"delete from tasks where id = {FIRST.format('half-second')}",
    ),
    "a cron expression's due time is lost": (
        {"due times", "numbers"}, f"delete from tasks where id = {FIRST.format('cron')}",
    ),
    "a due time is fired twice": ({"due times", "numbers"}, COPY.format("half-second")),
    "a one-time schedule is fired twice": ({"due times", "numbers"}, COPY.format("once-2")),
    "a one-time schedule was never fired": (
        {"due times"}, "update triggers set done_at = null where schedule = 'once-2'",
    ),
    "a run was never due": (
        {"due times"},
        f"update tasks set due_at = due_at - interval '1 ms' where id = {FIRST.format('skip')}",
    ),
    "a run was made before it was due": (
        {"due times"},
        f"update soak.audit set at = at - interval '1 hour' where old_status is null and task_id = {FIRST.format('cron')}",
    ),
    "a due time was skipped without a word": (
        {"due times"}, "update schedules set skipped = skipped - 1 where name = 'skip'",
    ),
    "a due time that must not be was skipped": (
        {"due times"}, "update schedules set skipped = 1 where name = 'half-second'",
    ),
    "a clock stands still": (
        {"due times"}, "update triggers set due_at = null where schedule = 'half-second'",
    ),
    "a pause of fixed length began at no run's end": (
        {"due times"}, "update triggers set due_at = due_at + interval '1 ms' where schedule = 'rest'",
    ),
    "a run began before the one before had ended": (
        {"overlap"},
        "update soak.audit set at = at + interval '1 hour'"
        f" where new_status = 'success' and task_id = {FIRST.format('one-by-one')}",
    ),
    "an event is lost": ({"events", "numbers"}, f"delete from tasks where id = {FIRST.format('event')}"),
    "an event that was rolled back made a run": (
        {"events"},
        f"""update tasks set data = replace(data, '"serial": 1', '"serial": 2'), result = '{{"serial": 2}}'"""
        f" where id = {FIRST.format('event')}",
    ),
    "a handler saw another event": (
        {"events"}, f"""update tasks set result = '{{"serial": 9}}' where id = {FIRST.format('event')}""",
    ),
    "an event is still held": ({"events"}, f"insert into held_events (name) values ('{EVENT}')"),
    "a success is counted twice": (
        {"numbers"}, "update schedules set successes = successes + 1 where name = 'queue'",
    ),
    "an end is not accounted for": (
        {"numbers"},
        "insert into run_ends (schedule, task, run_at, status) values ('queue', 1, now(), 'success')",
    ),
    "another run is said to be the last": (
        {"numbers"}, "update schedules set last_task = last_task - 1 where name = 'cron'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERINGS)
def test_the_account_says_that(played: Played, what: str) -> None:
    sections, statements = TAMPERINGS[what]
    with played.conn.transaction(force_rollback=True):
        played.conn.execute(statements.encode())
        assert played.wrong() == sections


def test_the_stopper_sees_what_is_fired_while_firing_is_stopped(database: Database) -> None:
    conn = database.connect()
    register(conn, types=TYPES)
    stopper = Stopper(database.url, "1", every=(0, 0), length=(60, 60))
    stopper.start()
    wait_until(lambda: stopper.seen is not None)
    conn.execute("insert into tasks (type, created_by, schedule, due_at) values ('soak_noop', 0, 's', now())")
    (id,) = fired(conn)
    stopper.end()
    stopper.join(40)
    assert stopper.breaches == [f"task {id} was fired while all firing was stopped"]
    assert not schedules.is_stopped(conn)
