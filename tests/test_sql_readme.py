"""sql/README.md tells the truth: its tables are the database's, and its examples run."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from pgfleet import errors, sql, tasks
from tests.support.database import Database
from tests.support.fleet import column, value
from tests.support.transitions import NOT, TRANSITIONS

README = (sql.root() / "README.md").read_text(encoding="utf-8")


def table(heading: str) -> Iterator[list[str]]:
    """The cells of each row of the table whose head begins with that cell."""
    _, _, below = README.partition(f"| {heading} |")
    for line in below.splitlines()[2:]:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


def test_the_transition_table_is_the_tested_one() -> None:
    _, _, below = README.partition("| function | waiting | fresh ")
    shown = {}
    for line in below.splitlines()[2:]:
        if not line.startswith("|"):
            break
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        shown[name.replace("`", "")] = dict(zip(tasks.STATUSES, cells, strict=True))
    tested = {
        action: {s: allowed.get(s, "·" if refusal == NOT else refusal) for s in tasks.STATUSES}
        for action, (refusal, allowed) in TRANSITIONS.items()
    }
    assert shown == tested


def test_the_diagrams_arrows_are_the_tables() -> None:
    arrows = re.findall(r"^    (\w+) --> (\w+) : (.*)$", README, re.MULTILINE)
    drawn = {(a, b, name) for a, b, names in arrows for name in re.findall(r"\w+_\w+", names)}
    tested = {
        (a, b, action.partition(",")[0])
        for action, (_, allowed) in TRANSITIONS.items()
        for a, b in allowed.items()
        if b in tasks.STATUSES and a != b
    }
    assert drawn == tested


def test_the_error_codes_are_those_that_python_knows_and_sql_raises() -> None:
    told = {row[0] for row in table("SQLSTATE")}
    raised = {
        code
        for path in (sql.root() / "functions").glob("*.sql")
        for code in re.findall(r"'(PF\d\d\d)'", path.read_text(encoding="utf-8"))
    }
    assert told == set(errors.BY_SQLSTATE) == raised


def test_every_function_is_told_of_with_its_arguments_and_defaults(database: Database) -> None:
    told = {}
    for name, arguments in re.findall(r"^\| `(\w+)\(([^`]*)\)` \|", README, re.MULTILINE):
        told[name] = [(one.partition(" = ")[0].strip(), " = " in one) for one in arguments.split(", ") if one]
    query = (
        "select proname, pronargs, pronargdefaults, coalesce(proargnames, '{}') from pg_proc"
        " where pronamespace = 'public'::regnamespace"
    )
    standing = {
        name: [(argument, n >= count - defaults) for n, argument in enumerate(names[:count])]
        for name, count, defaults, names in database.connect().execute(query)
    }
    assert told == standing


def test_every_index_is_told_of(database: Database) -> None:
    told = {re.match(r"`(\w+)", row[0])[1] for row in table("index")}  # type: ignore[index]
    query = (
        "select i.indexrelid::regclass::text from pg_index i where i.indrelid in ('tasks'::regclass, 'exports'::regclass)"
        " and not exists (select from pg_constraint c where c.conindid = i.indexrelid)"
    )
    assert told == set(column(database.connect(), query))


@pytest.mark.timeout(60)
def test_the_examples_run_one_after_the_other(database: Database) -> None:
    conn = database.connect()
    blocks = re.findall(r"^```sql\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    for block in blocks:
        if "finish_tasks" in block:
            # As the page says: a worker settles what it has claimed.
            assert value(conn, "select array_agg(id order by id) from tasks where status = 'started'") == [5, 6, 7]
        conn.execute(block)
    assert column(conn, "select status from tasks where id between 5 and 7 order by id") == [
        "success",
        "waiting",
        "fresh",
    ]
    assert column(conn, "select id from workers") == []
