"""What readers see of a running task, and how little it costs to tell them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgfleet import demo, tasks
from pgfleet_worker import course
from pgfleet_worker.course import Course
from pgfleet_worker.handlers.csv_export import Report
from tests.support.database import Database
from tests.support.following import ended, result
from tests.support.processes import Processes
from tests.support.workers import attempting

Wait = Callable[..., Any]


def record_reports(conn: psycopg.Connection[Any]) -> None:
    """Keep each report in a table ``seen``."""
    conn.execute("create table seen (id bigint, progress double precision, step text, at timestamptz)")
    conn.execute(
        "create function note() returns trigger language plpgsql as"
        " $$ begin insert into seen values (new.id, new.progress, new.current_step, clock_timestamp()); return new; end $$"
    )
    conn.execute(
        "create trigger note after update on tasks for each row"
        " when (new.status = 'started' and new.progress is not null) execute function note()"
    )


def test_readers_see_the_step_the_fraction_and_an_estimate_of_the_time_left(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    attempting(processes, "--types", "reports")
    gate = tmp_path / "gate"
    id = tasks.create(conn, "reports", {"gate": str(gate)}, created_by=1)
    seen = "select progress, current_step, eta > now() from tasks where id = %s and progress is not null"
    assert wait_until(lambda: conn.execute(seen, (id,)).fetchone())[:2] == (0.25, "waiting")
    wait_until(lambda: conn.execute(seen, (id,)).fetchone() == (0.25, "waiting", True))
    gate.touch()
    assert result(wait_until(ended(conn, id))) == "done"


def test_at_most_one_report_a_second_is_sent_however_often_a_handler_reports(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    record_reports(conn)
    attempting(processes, "--types", "reports")
    gate = tmp_path / "gate"
    id = tasks.create(conn, "reports", {"gate": str(gate)}, created_by=1)
    wait_until(lambda: conn.execute("select count(*) >= 4 from seen").fetchone() == (True,))
    gate.touch()
    wait_until(ended(conn, id))
    # By the worker's clock four are three seconds apart, where every report were sent 20 ms; the first may be held up.
    apart = "select extract(epoch from max(at) - min(at)) > 1.5 from (select at from seen order by at limit 4) first"
    assert conn.execute(apart).fetchone() == (True,)


def test_a_burst_of_reports_leaves_the_latest(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    record_reports(conn)
    attempting(processes, "--types", "bursts,bursts_process")
    latest = "select progress, step from seen where id = %s order by at desc limit 1"
    for type in ("bursts", "bursts_process"):
        gate = tmp_path / type
        id = tasks.create(conn, type, {"gate": str(gate)}, created_by=1)
        wait_until(lambda id=id: conn.execute(latest, (id,)).fetchone() == (0.5, "half"))
        gate.touch()
        assert wait_until(ended(conn, id))["status"] == "success"


@pytest.mark.parametrize("type", ["odd_report", "odd_report_process"])
def test_an_odd_report_costs_its_task_alone(
    database: Database, processes: Processes, wait_until: Wait, type: str
) -> None:
    conn = database.connect()
    attempting(processes, "--types", f"{type},finishes", "--concurrency", "1")
    row = wait_until(ended(conn, tasks.create(conn, type, created_by=1)))
    assert result(row) == ["ValueError", "TypeError"]
    assert result(wait_until(ended(conn, tasks.create(conn, type, created_by=1)))) == ["ValueError", "TypeError"]


def test_a_handler_that_reports_learns_that_its_task_was_cancelled(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    process = attempting(processes, "--types", "reports")
    gate = tmp_path / "gate"
    id = tasks.create(conn, "reports", {"gate": str(gate)}, created_by=1)
    wait_until(Path(f"{gate}.begun").exists)
    tasks.cancel(conn, id)
    row = wait_until(ended(conn, id))
    assert (row["status"], row["failure_count"], row["attempt"]) == ("cancelled", 0, 1)
    event = process.wait_for_event("task.cancelled")
    assert (event["task"], event["type"], event["attempt"], event["worker"]) == (id, "reports", 1, row["worker"])


def test_a_resumed_attempt_makes_no_estimate_of_what_an_earlier_one_had_done(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    attempting(processes, "--types", "goes_on_reporting")
    gate = tmp_path / "gate"
    id = tasks.create(conn, "goes_on_reporting", {"gate": str(gate)}, created_by=1, max_retries=1)
    seen = "select progress, eta from tasks where id = %s and status = 'started' and current_step = 'going on'"
    assert wait_until(lambda: conn.execute(seen, (id,)).fetchone()) == (0.9, None)
    gate.touch()
    assert result(wait_until(ended(conn, id))) == "done"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(course, "time", made)
    return made


def test_the_time_left_is_reckoned_by_the_attempts_own_pace(clock: Clock) -> None:
    fresh = Course(began=clock.now)
    clock.now += 10
    fresh.note(1, 4, None)
    assert fresh.time_left == pytest.approx(30)
    clock.now += 5
    assert fresh.time_left == pytest.approx(25)


def test_what_an_earlier_attempt_had_done_is_not_counted_as_this_ones_work(clock: Clock) -> None:
    resumed = Course(began=None)
    clock.now += 1
    resumed.note(90, 100, None)
    assert resumed.time_left is None, "no pace of its own yet"
    clock.now += 10
    resumed.note(91, 100, None)
    assert resumed.time_left == pytest.approx(90)


def test_odd_numbers_make_no_odd_progress(clock: Clock) -> None:
    made = Course(began=clock.now)
    for done, total, fraction in [(0, 0, 1.0), (5, 4, 1.0), (-1, 4, 0.0), (1, float("inf"), 0.0), (0, 4, 0.0)]:
        made.note(done, total, None)
        assert made.fraction == fraction
        left = made.time_left
        assert left is None or left >= 0
    for done, total in [(float("nan"), 4), (float("inf"), float("inf"))]:
        with pytest.raises(ValueError, match="expected numbers"):
            made.note(done, total, None)
    with pytest.raises(TypeError):
        made.note("much", 4, None)  # type: ignore[arg-type]


def test_only_the_first_last_report_is_sent_out_of_turn(clock: Clock) -> None:
    made = Course(began=clock.now)
    made.note(4, 4, None)
    assert made.due <= clock.now
    made.mark_sent()
    made.note(4, 4, None)
    assert made.due > clock.now


def test_an_export_tells_how_many_of_its_books_are_written(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    demo.install(conn)
    record_reports(conn)
    conn.execute("delete from notes")
    conn.execute("delete from books")
    conn.execute("insert into books (title, owner_id) select repeat('x', 2000), 1 from generate_series(1, 60000)")
    attempting(processes, "--types", "csv_export")
    row = wait_until(ended(conn, tasks.create(conn, "csv_export", created_by=1)), timeout=60)
    assert result(row)["rows"] == 60000
    seen = conn.execute("select progress, step from seen order by at").fetchall()
    assert seen[0][1] == "Writing the books"
    assert 0 < seen[0][0] < 0.5


def test_an_export_that_can_not_count_its_books_goes_on() -> None:
    told = []

    class Task:
        def connect(self) -> Any:
            raise psycopg.OperationalError("too many connections")

        def progress(self, *of: Any) -> None:
            told.append(of)

    report = Report(Task(), 1)  # type: ignore[arg-type]
    report(1000)
    report(2000)
    assert told == [(0, 1, "Writing the books")] * 2
