"""The soak's account finds what it is there to find."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgfleet import firing as engine
from pgfleet import schedules
from pgfleet.schedules import Schedule, Trigger
from tests.chaos import account, rules
from tests.chaos.stage import HERE
from tests.chaos.work import Ledger
from tests.support.database import Database
from tests.support.fleet import OTHER, WORKER, claim, lapse, register

NONCES = iter(range(1, 1000))


@dataclass
class Played:
    """A database with the audit, the two ledgers, and words for what a fleet does."""

    conn: psycopg.Connection[Any]
    ledger: Ledger
    handlers: Path
    volume: Path

    def create(self, kind: str = "noop", type: str = "job") -> int:
        key = f"key {len(self.ledger.ids)}"
        row = self.conn.execute("select create_task(%s, %s, 1)", [type, json.dumps({"key": key})]).fetchone()
        assert row is not None
        self.ledger.ids[key], self.ledger.kinds[key] = row[0], kind
        return int(row[0])

    def run(self, id: int, worker: str = WORKER) -> str:
        """Claim the task and do it; answers the result that is yet to be settled."""
        assert claim(self.conn, worker=worker) == [id]
        row = self.conn.execute("select attempt from tasks where id = %s", [id]).fetchone()
        assert row is not None
        nonce = f"n{next(NONCES)}"
        with self.handlers.open("a") as file:
            file.write(f"began {id} {row[0]} p-{worker} {nonce}\ndone {id} {row[0]} p-{worker} {nonce}\n")
        return json.dumps({"nonce": nonce, "process": f"p-{worker}"})

    def settle(self, id: int, result: str, worker: str = WORKER, attempt: int = 1) -> None:
        self.conn.execute("select finish_tasks(%s, %s, %s, %s)", [worker, [id], [attempt], [result]])

    def wrong(self) -> dict[str, list[str]]:
        facts = account.Facts.read(self.conn, self.ledger, self.handlers)
        facts.process_of = {WORKER: f"p-{WORKER}", OTHER: f"p-{OTHER}"}
        found = {
            "lost": account.lost(facts),
            "settled": account.settled(facts),
            "right": account.right(facts),
            "history": account.history(facts),
            "files": account.files(facts, self.volume),
            "parts": rules.parts(facts),
        }
        return {name: wrong for name, wrong in found.items() if wrong}


@pytest.fixture
def played(database: Database, tmp_path: Path, export_dir: Path) -> Played:
    conn = database.connect()
    conn.execute((HERE / "audit.sql").read_bytes())
    register(conn)
    register(conn, OTHER)
    handlers = tmp_path / "ledger"
    handlers.touch()
    return Played(conn, Ledger(), handlers, export_dir)


def one_of_each(played: Played) -> int:
    """A success, a rescued success, a failure, a cancelled one; answers the first one's id."""
    first = played.create()
    played.settle(first, played.run(first))
    rescued = played.create()
    played.run(rescued)
    lapse(played.conn)
    played.conn.execute("select rescue_tasks()")
    played.settle(rescued, played.run(rescued, OTHER), OTHER, attempt=2)
    failed = played.create("doomed")
    played.run(failed, OTHER)
    played.conn.execute("select fail_task(%s, %s, 1, 'no', give_up => true)", [OTHER, failed])
    played.conn.execute("update tasks set data = data::jsonb || '{\"at_once\": true}' where id = %s", [failed])
    cancelled = played.create()
    played.ledger.cancelled.add(cancelled)
    played.conn.execute("select cancel_task(%s)", [cancelled])
    return first


def test_a_fleet_that_keeps_the_rules_has_a_clean_account(played: Played) -> None:
    one_of_each(played)
    assert played.wrong() == {}


def test_a_run_for_all_nodes_that_finds_none_is_no_breach(played: Played) -> None:
    first = one_of_each(played)
    played.conn.execute("update workers set lost_at = now()")
    once = Schedule("s", "job", (Trigger.once(after=timedelta()),), all_nodes=True, data='{"key": "s"}')
    schedules.put(played.conn, once)
    engine.fire(played.conn)
    assert played.wrong() == {}
    played.conn.execute("update tasks set worker = 'all nodes' where id = %s", [first])
    assert "parts" in played.wrong()


#: What is done behind the fleet's back, to the task {id}, and which checks must say so.
TAMPERINGS: dict[str, tuple[set[str], str]] = {
    "a task is gone": ({"lost"}, "delete from tasks where id = {id}"),
    "a task is not ended": (
        {"lost", "right", "settled", "history"},
        "update tasks set status = 'waiting', run_at = now(), worker = null where id = {id}",
    ),
    "a settled task is settled again": (
        {"settled"},
        "update tasks set status = 'started' where id = {id}; update tasks set status = 'success' where id = {id}",
    ),
    "another task's result is recorded": (
        {"right"},
        "update tasks set result = (select result from tasks where id = {id} + 1) where id = {id}",
    ),
    "another worker is recorded": (
        {"right", "settled", "history"},
        f"update tasks set worker = '{OTHER}' where id = {{id}}",
    ),
    "an attempt is forgotten": ({"history"}, "delete from task_attempts"),
    "an attempt is skipped": (
        {"settled", "right", "history"},
        "update tasks set attempt = attempt + 1 where id = {id}",
    ),
    "a success is called a failure": (
        {"settled", "right", "history"},
        "update tasks set status = 'failure' where id = {id}",
    ),
}


@pytest.mark.parametrize("what", TAMPERINGS)
def test_the_account_says_that(played: Played, what: str) -> None:
    first = one_of_each(played)
    sections, statements = TAMPERINGS[what]
    played.conn.execute(statements.format(id=first).encode())
    assert set(played.wrong()) == sections


def test_the_account_says_that_a_file_is_torn_missing_or_left_over(played: Played) -> None:
    names = ["export_261121_aaaaaaaaaaaa.csv", "export_261121_bbbbbbbbbbbb.csv"]
    for name in names:
        id = played.create(type="csv_export")
        claimed = "select id from claim_tasks(%s, '{csv_export}', 1)"
        played.conn.execute("update workers set types = '{csv_export}', lease_expires_at = now() + interval '1 hour'")
        assert played.conn.execute(claimed, [WORKER]).fetchone() == (id,)
        sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # of nothing
        played.conn.execute("select finish_export(%s, %s, 1, null, %s, 1, 'csv', 0, %s)", [WORKER, id, name, sha256])
        (played.volume / name).touch()
    assert played.wrong() == {}
    (played.volume / names[0]).write_text("title")
    (played.volume / names[1]).unlink()
    (played.volume / "export_261121_cccccccccccc.csv").touch()
    (played.volume / ".export_1_1.tmp").touch()
    assert len(played.wrong()["files"]) == 4


def test_the_soak_itself_ends_well(tmp_path: Path, wait_until: Callable[..., Any]) -> None:
    from tests.chaos.__main__ import main

    assert main(["--minutes", "0.1", "--seed", "9", "--workers", "3", "--every", "1", "--dir", str(tmp_path)]) == 0
    assert list(tmp_path.iterdir()) == []
