"""run.py: when it installs, when it does not, and that nothing leaves a half-made .venv behind. Without a network."""

from __future__ import annotations

import ast
import hashlib
import http.server
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.waiting import wait_until

RUN_PY = Path(__file__).resolve().parent.parent / "run.py"

#: Stands in for .venv/bin/python: as pip it notes the call (and waits at a gate, if there is one), else it tells it.
FAKE_PYTHON = """#!/bin/sh
case "$1" in
*pip) echo "$@" >>pip-calls; while [ -e gate ]; do sleep 0.02; done ;;
*) echo "$(pwd)|$*" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with run.py and small locks, in a path with a space."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    shutil.copy(RUN_PY, folder)
    for name in ("pyproject.toml", "requirements.lock", "requirements-dev.lock"):
        (folder / name).write_text(f"# {name}\n")
    return folder


def load(checkout: Path) -> Any:
    spec = importlib.util.spec_from_file_location("run_py_under_test", checkout / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def installed(checkout: Path) -> Path:
    """A checkout whose .venv is whole, as run.py would have made it."""
    venv = checkout / ".venv"
    (venv / "bin").mkdir(parents=True)
    python = venv / "bin" / "python"
    python.write_text(FAKE_PYTHON)
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    (venv / "made-by-run.py").touch()
    (venv / "installed-by-run.py").write_text(load(checkout).expected_stamp(False))
    return checkout


def start(checkout: Path, *arguments: str, **popen: Any) -> subprocess.Popen[str]:
    argv: list[str | Path] = [sys.executable, checkout / "run.py", *arguments]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen)


def run(checkout: Path, *arguments: str, **popen: Any) -> tuple[int, str, str]:
    process = start(checkout, *arguments, **popen)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def pip_calls(checkout: Path) -> list[str]:
    calls = checkout / "pip-calls"
    return calls.read_text().splitlines() if calls.exists() else []


def test_a_second_start_hands_over_without_pip_and_keeps_folder_and_arguments(installed: Path, tmp_path: Path) -> None:
    code, out, err = run(installed, "up", "--dir", "with space", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert out == f"{tmp_path}|-m pgfleet.cli.main up --dir with space\n"
    assert pip_calls(installed) == []


def test_a_ctrl_c_waits_until_the_command_is_imported(installed: Path) -> None:
    say = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
    (installed / ".venv/bin/python").write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{say}'\n")
    assert run(installed, "up") == (0, "True\n", "")
    assert run(installed, "test")[1] == "False\n"  # pytest knows nothing of that


def test_test_bench_and_chaos_install_the_development_tools_once_and_run_them(installed: Path, tmp_path: Path) -> None:
    assert run(installed, "test", "-k", "csv", cwd=tmp_path)[1] == f"{installed}|-m pytest -k csv\n"
    assert any("requirements-dev.lock" in call for call in pip_calls(installed))
    calls = pip_calls(installed)
    assert run(installed, "bench", "http", cwd=tmp_path)[1] == f"{tmp_path}|-m tests.benchmarks http\n"
    assert run(installed, "chaos", "--seed", "2", cwd=tmp_path)[1] == f"{tmp_path}|-m tests.chaos --seed 2\n"
    assert run(installed, "up", cwd=tmp_path)[0] == 0  # and has not to be installed anew without them
    assert pip_calls(installed) == calls


def test_a_changed_lock_installs_again_with_hashes_and_then_no_more(installed: Path) -> None:
    (installed / "requirements.lock").write_text("# changed\n")
    code, _, err = run(installed, "up")
    assert code == 0
    assert "Installed in" in err
    packages, itself = pip_calls(installed)
    assert "--require-hashes" in packages
    assert "--no-index -e ." in itself
    assert run(installed, "up")[2] == ""
    assert len(pip_calls(installed)) == 2


def test_two_starts_at_once_install_once(installed: Path) -> None:
    (installed / "requirements.lock").write_text("# changed\n")
    (installed / "gate").touch()
    first = start(installed, "up")
    wait_until(lambda: pip_calls(installed))
    second = start(installed, "up")
    assert second.stderr is not None
    assert "waiting" in second.stderr.readline()
    (installed / "gate").unlink()
    assert first.communicate(timeout=60)[0] == second.communicate(timeout=60)[0]
    assert (first.returncode, second.returncode) == (0, 0)
    assert len(pip_calls(installed)) == 2


def test_the_pip_of_a_killed_run_py_keeps_the_next_one_waiting(installed: Path) -> None:
    (installed / "requirements.lock").write_text("# changed\n")
    (installed / "gate").touch()
    first = start(installed, "up")
    wait_until(lambda: pip_calls(installed))
    first.kill()
    second = start(installed, "up")
    assert second.stderr is not None
    assert "waiting" in second.stderr.readline()
    second.kill()
    (installed / "gate").unlink()
    first.communicate(timeout=60)
    second.communicate(timeout=60)
    assert not (installed / ".venv" / "installed-by-run.py").exists()


def test_a_half_made_venv_is_made_anew(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(checkout)

    def killed(*_: object) -> None:
        (checkout / ".venv" / "half").touch()
        raise KeyboardInterrupt

    module.run_pip = killed
    with pytest.raises(KeyboardInterrupt):
        module.install(False)
    assert (checkout / ".venv" / "half").exists()
    assert module.read_stamp() == ""

    calls: list[object] = []
    module.run_pip = lambda *arguments: calls.append(arguments)
    module.install(False)
    assert not (checkout / ".venv" / "half").exists()
    assert module.read_stamp() == module.expected_stamp(False)
    assert len(calls) == 2
    shown = subprocess.run([checkout / ".venv/bin/python", "-c", "import sys; print(sys.prefix)"], capture_output=True)
    assert os.fsdecode(shown.stdout).strip() == str(checkout / ".venv")


def test_a_venv_of_another_folder_or_python_is_made_anew(installed: Path, tmp_path: Path) -> None:
    moved = installed.rename(tmp_path / "moved")
    module = load(moved)
    module.run_pip = lambda *_: None
    module.install(False)
    assert (moved / ".venv" / "bin" / "python").is_symlink()
    assert module.read_stamp() == module.expected_stamp(False)


def test_a_venv_that_somebody_else_made_is_left_alone(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "mine").touch()
    code, _, err = run(checkout, "up")
    assert code == 1
    assert "was not made by run.py" in err
    assert (checkout / ".venv" / "mine").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_checkout_that_can_not_be_written_is_named(checkout: Path) -> None:
    checkout.chmod(0o555)
    try:
        code, _, err = run(checkout, "up")
    finally:
        checkout.chmod(0o755)
    assert code == 1
    assert "run as its owner, or copy the folder" in err


def test_a_failing_pip_is_shown_and_leaves_no_stamp(installed: Path) -> None:
    (installed / "requirements.lock").write_text("# changed\n")
    (installed / ".venv/bin/python").write_text("#!/bin/sh\necho 'ERROR: no such package'\nexit 1\n")
    code, out, err = run(installed, "up")
    assert (code, out) == (1, "")
    assert "ERROR: no such package" in err
    assert "Traceback" not in err
    assert load(installed).read_stamp() == ""


def test_old_pythons_can_parse_it_and_are_told_what_is_needed(checkout: Path) -> None:
    ast.parse(RUN_PY.read_text(encoding="utf-8"), feature_version=(3, 6))
    code = "import runpy, sys; sys.version_info = (3, 9, 1); runpy.run_path(sys.argv[1], run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code, checkout / "run.py"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "needs Python 3.11 or newer; this is Python" in done.stderr


class Index(http.server.BaseHTTPRequestHandler):
    """A package index with one wheel."""

    wheel = b"the wheel"

    def do_GET(self) -> None:
        page = b'<a href="../../files/pip-26.3-py3-none-any.whl#sha256=0">pip</a>'
        body = {"/simple/pip/": page, "/files/pip-26.3-py3-none-any.whl": self.wheel}[self.path]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.delenv("PIP_CERT", raising=False)
        yield
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("index")
def test_a_missing_pip_is_fetched_from_the_users_index_and_only_with_the_pinned_content(
    checkout: Path, tmp_path: Path
) -> None:
    module = load(checkout)
    module.PIP_WHEEL = "pip-26.3-py3-none-any.whl"
    target = tmp_path / "pip.whl"
    with pytest.raises(module.Trouble, match="another content"):
        module.download_pip(str(target))
    assert not target.exists()
    module.PIP_SHA256 = hashlib.sha256(Index.wheel).hexdigest()
    module.download_pip(str(target))
    assert target.read_bytes() == Index.wheel
