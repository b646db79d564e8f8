"""``pgfleet types``: what the fleet can do, and what holds for each type's tasks; and tasks for all nodes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.cli import Run, answered
from tests.support.database import Database
from tests.support.fleet import claim, create, put, register, task


@pytest.fixture
def conn(database: Database) -> Any:
    """A connection to a fleet of one worker, which serves the type job."""
    made = database.connect()
    register(made)
    return made


def test_types_are_listed_with_their_limits_and_what_runs(run: Run, conn: Any) -> None:
    put(conn, "started")
    put(conn, "fresh")
    rows = {row["name"]: row for row in answered(run("types", "list", "--json"))}
    assert (rows["job"]["running"], rows["job"]["max_running"], rows["job"]["timeout"]) == (1, None, None)
    assert (rows["csv_export"]["running"], rows["csv_export"]["for_readers"]) == (0, True)
    head, *lines = run("types", "list").stdout.splitlines()
    assert head.startswith("name\trunning\tmax_running\ttimeout\tmax_retries\t")
    assert any(line.startswith("job\t1\t\t\t0\t10 s\t") for line in lines)


def test_what_is_set_holds_and_what_is_left_out_stays(run: Run, conn: Any) -> None:
    row = answered(run("types", "set", "job", "--max-running", "1", "--timeout", "1.5", "--max-retries", "3", "--json"))
    assert (row["name"], row["max_running"], row["timeout"], row["max_retries"]) == ("job", 1, 1.5, 3)
    assert (row["retry_delay"], row["max_crashes"]) == (10, 2)
    create(conn)
    create(conn)
    assert len(claim(conn, 2)) == 1, "no more than one at once"
    options = [
        "--retry-delay",
        "2",
        "--max-retry-delay",
        "60",
        "--max-crashes",
        "5",
        "--max-running",
        "0",
        "--timeout",
        "0",
    ]
    row = answered(run("types", "set", "job", *options, "--json"))
    assert (row["max_running"], row["timeout"], row["max_retries"]) == (None, None, 3)
    assert (row["retry_delay"], row["max_retry_delay"], row["max_crashes"]) == (2, 60, 5)
    assert len(claim(conn, 2)) == 1
    assert "max_running\t7" in run("types", "set", "job", "--max-running", "7").stdout.splitlines()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["job"], 2, "Say what to set"),
        (["job", "--max-running", "-1"], 2, "is not in the range"),
        (["job", "--timeout", "soon"], 2, "expected a duration such as 90s"),
        (["job", "--retry-delay", "nan"], 2, "expected a duration such as 90s"),
        (["job", "--timeout", "0.0001"], 1, "timeout must be from 1 millisecond"),
        (["nonesuch", "--max-running", "1"], 1, 'Error: Unknown task type "nonesuch".'),
    ],
)
def test_what_can_not_be_set_is_refused(run: Run, conn: Any, arguments: list[str], code: int, said: str) -> None:
    result = run("types", "set", *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr


def test_a_type_whose_claims_do_not_end_is_not_changed_and_the_command_says_so(
    run: Run, conn: Any, database: Database
) -> None:
    with database.connect(autocommit=False) as gate:
        gate.execute("select * from task_types where name = 'job' for update")
        result = run("types", "set", "job", "--max-running", "1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Error: Type job could not be changed" in result.stderr
    assert conn.execute("select max_running from task_types where name = 'job'").fetchone() == (None,)


def test_a_task_for_all_nodes_is_created_and_its_id_is_the_parents(run: Run, conn: Any) -> None:
    id = int(run("tasks", "create", "job", "--user", "1", "--all-nodes", "--timeout", "60").stdout)
    (part,) = answered(run("tasks", "list", "--parent", str(id), "--json"))["list"]
    assert (part["node"], part["timeout"], task(conn, id)["status"]) == ("node", 60, "started")
    result = run("tasks", "create", "job", "--user", "1", "--all-nodes", "--node", "north")
    assert (result.exit_code, "--all-nodes excludes" in result.stderr) == (2, True)
    nobody = run("tasks", "create", "csv_export", "--user", "1", "--all-nodes")
    assert (nobody.exit_code, nobody.stdout) == (1, "")
    assert nobody.stderr.startswith('Error: No live worker serves type "csv_export".')
    assert "Hint: Start a worker that serves it." in nobody.stderr
