"""The tests' own tools do what they promise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pgfleet import settings as settings_module
from pgfleet.settings import Settings
from tests.support.database import Database, environment
from tests.support.processes import Processes
from tests.support.waiting import wait_until


def test_each_test_has_a_migrated_database_with_nothing_in_it(database: Database) -> None:
    with database.connect() as conn:
        assert conn.execute("select count(*) from tasks").fetchone() == (0,)
        assert conn.execute("show search_path").fetchone() == ('"$user", public',)


def test_an_empty_database_holds_no_table(empty_database: Database) -> None:
    count = empty_database.connect().execute("select count(*) from pg_tables where schemaname = 'public'").fetchone()
    assert count == (0,)


def test_the_settings_survive_the_way_through_an_environment(settings: Settings) -> None:
    assert settings_module.from_env(environment(settings)) == settings


def test_waiting_ends_with_the_conditions_answer_and_fails_at_its_deadline() -> None:
    answers = iter([0, None, "here"])
    assert wait_until(lambda: next(answers)) == "here"
    with pytest.raises(AssertionError, match=r"the moon did not come true within 0\.05 s; last answer: 0"):
        wait_until(lambda: 0, 0.05, what="the moon")


def test_a_process_and_its_children_are_gone_after_the_test(settings: Settings, tmp_path: Path) -> None:
    child = "import subprocess; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); p.wait()"
    made = Processes(settings, tmp_path)
    process = made.run(sys.executable, "-c", child)
    pid = int(wait_until(process.text))
    made.end()
    assert process.popen.returncode == -9
    wait_until(lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return not state.startswith("Z")
