"""``pgfleet tasks purge``: what it deletes, what it counts, what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import Run, answered
from tests.support.database import Database
from tests.support.fleet import Connection, column, put, register
from tests.support.retention import age


@pytest.fixture
def conn(database: Database) -> Connection:
    conn = database.connect()
    register(conn)
    return conn


def export(conn: Connection, folder: Path, id: int) -> Path:
    path = folder / f"export_260131_{id:012}.csv"
    path.touch()
    conn.execute(
        "insert into exports (filename, owner_id, task_id, format, bytes, sha256) values (%s, 1, %s, 'csv', 0, %s)",
        [path.name, id, "0" * 64],
    )
    return path


def test_old_tasks_of_the_statuses_named_go_with_their_files(run: Run, conn: Connection, export_dir: Path) -> None:
    made = [put(conn, wanted) for wanted in ("success", "success", "success", "failure", "cancelled", "fresh")]
    files = [export(conn, export_dir, id) for id in made[:2]]
    age(conn, [*made[1:]], 31)
    words = ["tasks", "purge", "--older-than", "30d", "--status", "success", "--status", "failure", "--json"]
    counts = {"tasks": {"success": 2, "failure": 1}, "files": 1}
    assert answered(run(*words, "--dry-run")) == {**counts, "dry_run": True}
    assert column(conn, "select id from tasks order by id") == made
    assert answered(run(*words)) == {**counts, "dry_run": False}
    assert column(conn, "select id from tasks order by id") == [made[0], *made[4:]]
    assert [path.exists() for path in files] == [True, False]
    assert answered(run(*words)) == {"tasks": {"success": 0, "failure": 0}, "files": 0, "dry_run": False}


def test_it_says_in_words_what_it_did_and_would_do(run: Run, conn: Connection) -> None:
    age(conn, [put(conn, "success")], 0.5)
    words = ["tasks", "purge", "--older-than", "11h", "--status", "success"]
    assert run(*words, "--dry-run").stdout == "Would purge 1 tasks (1 success) and 0 files.\n"
    assert run(*words).stdout == "Purged 1 tasks (1 success) and 0 files.\n"


def test_files_it_can_not_reach_are_left_to_the_workers_and_told_of(
    run: Run, conn: Connection, export_dir: Path
) -> None:
    id = put(conn, "success")
    path = export(conn, export_dir, id)
    result = run("tasks", "purge", "--older-than", "0", "--status", "success", EXPORT_DIR=str(export_dir / "nowhere"))
    assert result.exit_code == 1
    assert result.stdout == "Purged 1 tasks (1 success) and 0 files.\n"
    assert "1 files of purged tasks could not be removed" in result.stderr
    assert path.name in result.stderr
    assert path.exists()


@pytest.mark.parametrize("unfinished", ["waiting", "fresh", "started"])
def test_an_unfinished_status_is_refused_and_nothing_is_purged(run: Run, conn: Connection, unfinished: str) -> None:
    id = put(conn, "success")
    result = run("tasks", "purge", "--older-than", "0", "--status", "success", "--status", unfinished)
    assert result.exit_code == 1
    assert f"Tasks that are {unfinished} can't be purged: they are not finished." in result.stderr
    assert "pgfleet tasks cancel" in result.stderr
    assert column(conn, "select id from tasks") == [id]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--status", "success"], "--older-than"),
        (["--older-than", "30d"], "--status"),
        (["--older-than", "soon", "--status", "success"], "a duration such as 90s, 12h or 30d"),
        (["--older-than", "-1d", "--status", "success"], "a duration such as"),
        (["--older-than", "40000d", "--status", "success"], "at most 36500d"),
        (["--older-than", "1d", "--status", "done"], "'done' is not one of"),
    ],
)
def test_a_wrong_question_is_refused_with_what_was_expected(run: Run, words: list[str], said: str) -> None:
    result = run("tasks", "purge", *words)
    assert result.exit_code == 2
    assert said in result.stderr
