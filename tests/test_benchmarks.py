"""The benchmark suite runs: a smoke run of two scenarios. No figure is judged here, only that there are some."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.benchmarks.__main__ import main
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[1]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Where the run puts its Postgres: not pytest's folder, which is 0700 and whose long name no socket's path bears."""
    folder = Path(tempfile.mkdtemp(prefix="pgfleet-bench-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def bench(scratch: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A smoke run of ``drain`` and ``latency``, just started; it writes ``found.json``."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TMPDIR": str(scratch)}
    arguments = ["drain", "latency", "--quick", "--json", str(tmp_path / "found.json")]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks", *arguments],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Where the tests run in a shell's background they ignore Ctrl-C, and so would it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_a_quick_run_measures_and_shows_it(bench: subprocess.Popen[bytes], scratch: Path, tmp_path: Path) -> None:
    out, err = bench.communicate(timeout=120)
    assert bench.returncode == 0, err.decode()
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found["scenarios"]) == ["drain", "latency"]
    for result in found["scenarios"].values():
        assert result["rows"]
        assert all(row["value"] > 0 and not math.isnan(row["value"]) for row in result["rows"])
    [run] = found["runs"]
    assert run["machine"]["cores"] > 0
    assert run["postgres"]["options"]["fsync"] == "on"
    assert b"share of the limit" in out
    assert list(scratch.iterdir()) == []


def test_an_interrupted_run_leaves_nothing_behind(bench: subprocess.Popen[bytes], scratch: Path) -> None:
    wait_until(lambda: any(" worker " in line for line in _running(scratch)), 60, what="a worker of the run")
    bench.send_signal(signal.SIGINT)
    _out, err = bench.communicate(timeout=60)
    assert bench.returncode == 130, err.decode()
    wait_until(lambda: not _running(scratch), what="the end of all that it started")
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_while_a_process_starts_is_not_lost(number: signal.Signals, scratch: Path) -> None:
    program = """
import os, signal, sys
from tests.benchmarks.processes import Child
number = int(sys.argv[1])
signal.signal(number, signal.default_int_handler)
os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), number))
try:
    Child(["sleep", "60"])
except KeyboardInterrupt:
    print("interrupted")
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TMPDIR": str(scratch)}
    ran = subprocess.run([sys.executable, "-c", program, str(int(number))], cwd=ROOT, env=env, capture_output=True)
    assert ran.stdout == b"interrupted\n", ran.stderr.decode()
    wait_until(lambda: not _running(scratch), what="the end of what it had started")


def test_a_run_that_would_drop_what_a_peer_was_measured_at_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = tmp_path / "found.json"
    rows = [{"who": "pgfleet"}, {"who": "pg-boss"}]
    found.write_text(json.dumps({"runs": [], "peers": {}, "scenarios": {"drain": {"rows": rows}}}))
    before = found.read_bytes()
    with pytest.raises(SystemExit) as end:
        main(["drain", "http", "--peers", "none", "--add", "--json", str(found)])
    assert end.value.code == 2
    assert "pg-boss" in capsys.readouterr().err
    assert found.read_bytes() == before


def _running(scratch: Path) -> list[str]:
    """The command lines of the processes that know of ``scratch``, by their own arguments or their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone meanwhile
            line = (process / "cmdline").read_bytes()
            if bytes(scratch) in line or bytes(scratch) in (process / "environ").read_bytes():
                found.append(line.replace(b"\0", b" ").decode(errors="replace"))
    return found
