"""Handlers in processes of their own: what ends such a process fails its task and nothing else."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgfleet import tasks
from tests.support.database import Database
from tests.support.following import ended, register, result
from tests.support.processes import Processes, is_alive
from tests.support.workers import attempting

Wait = Callable[..., Any]


def test_a_slots_process_is_used_again_and_made_anew_after_so_many_tasks(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    process = attempting(processes, "--types", "in_process", "--concurrency", "1")
    pids = []
    for n in range(7):
        row = wait_until(ended(conn, tasks.create(conn, "in_process", {"n": n}, created_by=1)))
        told = result(row)
        assert (told["parent"], told["data"], told["attempt"]) == (process.pid, {"n": n}, 1)
        pids.append(told["pid"])
    assert [pids.index(pid) for pid in pids] == [0, 0, 0, 3, 3, 3, 6]
    assert process.pid not in pids
    wait_until(lambda: not is_alive(pids[0]))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("segfault", "Its process ended with signal 11 (SIGSEGV)."),
        ("exit", "Its process ended with exit code 3."),
        ("kill", "Its process ended with signal 9 (SIGKILL)."),
    ],
)
def test_what_ends_its_process_fails_that_task_alone(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path, how: str, said: str
) -> None:
    conn = database.connect()
    attempting(processes, "--types", "dies,gated_process", "--concurrency", "2")
    gate = tmp_path / "gate"
    other = tasks.create(conn, "gated_process", {"gate": str(gate), "busy": True}, created_by=1)
    wait_until(Path(f"{gate}.begun").exists)
    row = wait_until(ended(conn, tasks.create(conn, "dies", json.dumps(how), created_by=1)))
    assert (row["status"], row["error"], row["failure_count"], row["crash_count"]) == ("failure", said, 1, 0)
    assert ("want of memory" in row["error_detail"]) == (how == "kill")
    assert result(wait_until(ended(conn, tasks.create(conn, "dies", json.dumps("nothing"), created_by=1)))) > 0
    gate.touch()
    assert result(wait_until(ended(conn, other))) == "done"


def test_what_a_handler_raises_or_returns_in_a_process_is_told_as_in_a_thread(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    process = attempting(processes, "--types", "dies", "--concurrency", "1")
    rows = {
        data: wait_until(ended(conn, tasks.create(conn, "dies", json.dumps(data), created_by=1)))
        for data in ("system_exit", "give_up", "unsayable")
    }
    assert {row["status"] for row in rows.values()} == {"failure"}
    assert rows["give_up"]["error"] == "There is no such book."
    assert "SystemExit: 4" in rows["system_exit"]["error_detail"]
    assert "can't be told in JSON" in rows["unsayable"]["error_detail"]
    result(wait_until(ended(conn, tasks.create(conn, "dies", json.dumps("noise"), created_by=1))))
    assert "said on stdout" in process.text()
    assert "said on stderr" in process.text()
    assert process.events("child.died") == []


def test_a_process_that_dies_between_two_tasks_costs_none(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    attempting(processes, "--types", "in_process", "--concurrency", "1")
    first = result(wait_until(ended(conn, tasks.create(conn, "in_process", created_by=1))))
    os.kill(first["pid"], signal.SIGKILL)
    wait_until(lambda: not is_alive(first["pid"]))
    second = result(wait_until(ended(conn, tasks.create(conn, "in_process", created_by=1))))
    assert (second["pid"] != first["pid"], second["attempt"]) == (True, 1)


def test_a_process_that_dies_before_it_has_begun_costs_no_task(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    attempting(processes, "--types", "in_process", "--concurrency", "1")
    first = result(wait_until(ended(conn, tasks.create(conn, "in_process", created_by=1))))
    os.kill(first["pid"], signal.SIGSTOP)  # alive, as far as anybody can tell, but it begins with nothing
    id = tasks.create(conn, "in_process", created_by=1)
    wait_until(lambda: tasks.get(conn, id)["status"] == "started")
    os.kill(first["pid"], signal.SIGKILL)
    row = wait_until(ended(conn, id))
    assert result(row)["pid"] != first["pid"]
    assert (row["attempt"], row["failure_count"]) == (1, 0)


def test_processes_die_with_their_worker_however_it_dies(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    process = attempting(processes, "--types", "gated_process,in_process", "--concurrency", "2")
    gate = tmp_path / "gate"
    tasks.create(conn, "gated_process", {"gate": str(gate)}, created_by=1)
    wait_until(lambda: Path(f"{gate}.begun").exists() and Path(f"{gate}.begun").read_text())
    busy = int(Path(f"{gate}.begun").read_text())
    idle = result(wait_until(ended(conn, tasks.create(conn, "in_process", created_by=1))))["pid"]
    assert is_alive(busy)
    assert is_alive(idle)
    process.signal(signal.SIGKILL)
    wait_until(lambda: not is_alive(busy) and not is_alive(idle))


def test_short_of_memory_the_kernel_takes_the_process_before_its_worker(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    process = attempting(processes, "--types", "in_process", "--concurrency", "1")
    pid = result(wait_until(ended(conn, tasks.create(conn, "in_process", created_by=1))))["pid"]
    points = [int(Path(f"/proc/{of}/oom_score_adj").read_text()) for of in (process.pid, pid)]
    assert points[0] < points[1]


def test_an_idle_process_ends_with_its_worker(database: Database, processes: Processes, wait_until: Wait) -> None:
    conn = database.connect()
    process = attempting(processes, "--types", "in_process", "--concurrency", "1")
    pid = result(wait_until(ended(conn, tasks.create(conn, "in_process", created_by=1))))["pid"]
    assert process.stop() == 0
    wait_until(lambda: not is_alive(pid))


def test_a_supervisors_signal_to_all_processes_does_not_end_what_has_its_grace(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    process = attempting(processes, "--types", "gated_process")
    gate = tmp_path / "gate"
    id = tasks.create(conn, "gated_process", {"gate": str(gate), "busy": True}, created_by=1)
    wait_until(lambda: Path(f"{gate}.begun").exists() and Path(f"{gate}.begun").read_text())
    child = int(Path(f"{gate}.begun").read_text())
    process.signal(signal.SIGTERM)
    os.kill(child, signal.SIGTERM)
    os.kill(child, signal.SIGINT)
    process.wait_for_event("worker.stopping")
    gate.touch()
    assert process.wait() == 0
    assert result(tasks.get(conn, id)) == "done"


def test_what_outlasts_the_grace_period_in_a_process_is_given_back(
    database: Database, processes: Processes, wait_until: Wait, tmp_path: Path
) -> None:
    conn = database.connect()
    process = attempting(processes, "--types", "gated_process", settings=database.settings(grace=0.2))
    gate = tmp_path / "gate"
    id = tasks.create(conn, "gated_process", {"gate": str(gate)}, created_by=1)
    wait_until(Path(f"{gate}.begun").exists)
    assert process.stop() == 0
    row = tasks.get(conn, id)
    assert (row["status"], row["failure_count"], row["crash_count"]) == ("fresh", 0, 0)
    assert Path(f"{gate}.cancelled").exists()


def test_a_handler_that_no_module_holds_is_refused_at_the_start(processes: Processes, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from pgfleet.cli.main import main\n"
        "from pgfleet_worker import handler\n"
        "@handler('homeless', isolation='process')\n"
        "def homeless(task): ...\n"
        "sys.argv[1:] = ['worker', '--handlers', '__main__', '--types', 'homeless']\n"
        "main()\n"
    )
    process = processes.run(__import__("sys").executable, str(script))
    assert process.wait() == 1
    assert "can't be isolated in a process" in process.text()
    assert "Traceback" not in process.text()


def usage(conn: psycopg.Connection[Any], row: dict[str, Any]) -> tuple[float | None, int | None]:
    found = conn.execute("select cpu_seconds, peak_memory from tasks where id = %s", (row["id"],)).fetchone()
    assert found is not None
    return found[0], found[1]


MIB = 1024 * 1024


def test_a_process_tells_each_attempts_own_processor_time_and_peak_memory(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    attempting(processes, "--types", "eats", "--concurrency", "1")
    told = []
    for size in (10, 200, 10):
        row = wait_until(ended(conn, tasks.create(conn, "eats", size, created_by=1)))
        assert row["status"] == "success"
        told.append(usage(conn, row))
    small, large, again = told
    for cpu, _ in told:
        assert cpu is not None
        assert cpu >= 0.1
    # Each burns a tenth of a second: told with what was before it, the last would have that much more than the one before.
    assert again[0] < large[0] + 0.1, "what earlier tasks had used"  # type: ignore[operator]
    assert small[1]
    assert large[1]
    assert again[1]
    assert 185 * MIB < large[1] - small[1] < 195 * MIB
    assert abs(again[1] - small[1]) < 15 * MIB, "a peak of an earlier task"


def test_a_thread_tells_its_processor_time_and_no_memory(
    database: Database, processes: Processes, wait_until: Wait
) -> None:
    conn = database.connect()
    register(conn, "burns")
    attempting(processes, "--types", "burns", "--concurrency", "2")
    rows = [tasks.create(conn, "burns", created_by=1) for _ in range(2)]
    for id in rows:
        cpu, memory = usage(conn, wait_until(ended(conn, id)))
        assert cpu is not None
        assert 0.1 <= cpu < 0.2, "its own time, not that of its sleep or of the other thread"
        assert memory is None
