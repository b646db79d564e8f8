"""``pgfleet up``: real processes, a real folder, and every way it may end."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import socket
import stat
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgfleet import demo, migrate, tokens
from pgfleet import settings as settings_module
from pgfleet.embedded import EmbeddedPostgres
from pgfleet.errors import PgfleetError
from pgfleet.up import port as ports
from pgfleet.up.child import Child
from pgfleet.up.show import cut
from tests.support.database import SECRET, Database, Databases
from tests.support.processes import free_port
from tests.support.up import PATIENCE, Up, alive
from tests.support.waiting import wait_until

HEADER = "title,isbn,description,reading_status,current_page,total_pages,author,rating,notes"


@pytest.fixture(scope="module")
def embedded_folder() -> Iterator[Path]:
    """A folder, with a space in its name, whose Postgres is made by the first test that needs it."""
    # Not pytest's folder: that one is 0700, and as root the server runs under another account.
    parent = Path(tempfile.mkdtemp(prefix="pgfleet-up-"))
    parent.chmod(0o711)
    folder = parent / "a folder"
    yield folder
    if folder.exists():
        EmbeddedPostgres(folder / "postgres").remove()
    shutil.rmtree(parent)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """``start(folder, *arguments, **env)``: an Up; all are dead after the test."""
    logs = tmp_path / "up-logs"
    logs.mkdir()
    started: list[Up] = []

    def start(folder: Path, *arguments: str, **env: str) -> Up:
        started.append(Up(folder, logs, *arguments, **env))
        return started[-1]

    yield start
    for up in started:
        if up.popen.poll() is None:
            up.end(signal.SIGTERM)
    wait_until(lambda: not any(alive(up.folder) for up in started), PATIENCE, what="the end of all processes")


@pytest.fixture
def given(empty_database: Database) -> dict[str, str]:
    """The environment that gives ``up`` a database of the test server."""
    return {"PGFLEET_DATABASE_URL": empty_database.url}


def test_once_prints_a_csv_of_real_books_and_leaves_nothing_running(
    embedded_folder: Path, start: Callable[..., Up]
) -> None:
    up = start(embedded_folder, "--once")
    assert up.end() == 0, up.err
    assert HEADER in up.out.splitlines()
    assert "Nineteen Eighty-Four,9780451524935," in up.out
    [path] = [line for line in up.out.splitlines() if line.startswith("CSV: ")]
    file = Path(path.removeprefix("CSV: ").rpartition(" (")[0])
    assert file.parent == embedded_folder / "exports"
    rows = list(csv.DictReader(io.StringIO(file.read_bytes().decode(), newline="")))
    assert len(rows) == sum(1 for book in demo.books() if book["owner_id"] == 1)
    assert "Stopped." in up.err
    assert not (embedded_folder / "up.json").exists()
    assert alive(embedded_folder) == []


def test_it_serves_and_says_how_until_ctrl_c(embedded_folder: Path, start: Callable[..., Up]) -> None:
    first = start(embedded_folder)
    up = first.ready()
    try:
        path = embedded_folder / "up.json"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE((embedded_folder / "secret").stat().st_mode) == 0o600
        assert {"api_url", "database_url", "export_dir", "tokens", "auth_secret_key"} <= set(up)
        assert set(up["tokens"]) == {"reader", "admin"}
        assert up["export_dir"] == str(embedded_folder / "exports")
        for token in up["tokens"].values():
            assert token in first.out
        # The words it prints work.
        request = urllib.request.Request(up["api_url"] + "/v1/files")
        request.add_header("Authorization", f"Bearer {up['tokens']['reader']}")
        with urllib.request.urlopen(request, timeout=40) as answer:
            assert len(json.load(answer)) >= 1
        # The CLI finds it through the folder alone.
        settings = settings_module.from_env({"PGFLEET_DIR": str(embedded_folder)})
        assert tokens.Verifier(settings).verify(up["tokens"]["admin"]).is_admin
        assert migrate.check(settings).missing == ()

        second = start(embedded_folder, "--once")
        assert second.end() == 1
        assert f"process {first.popen.pid}, at {up['api_url']}" in second.err
        assert "Hint:" in second.err
        assert first.popen.poll() is None
        assert path.exists()
    finally:
        code = first.end(signal.SIGINT)
    assert code == 0, first.err
    assert "Traceback" not in first.err
    assert not path.exists()
    assert alive(embedded_folder) == []


def test_after_kill_9_its_processes_end_and_the_next_run_takes_over(
    embedded_folder: Path, start: Callable[..., Up]
) -> None:
    def workers() -> int:
        return len(alive(embedded_folder, "pgfleet.cli.main", "worker"))

    first = start(embedded_folder)
    before = first.ready()
    wait_until(lambda: workers() == 4, PATIENCE, what="two, each with its keeper")
    first.end(signal.SIGKILL)
    assert (embedded_folder / "up.json").exists()  # what it left behind
    second = start(embedded_folder)  # at once: the first one's processes are still ending
    after = second.ready()
    wait_until(lambda: workers() == 4, PATIENCE, what="two, each with its keeper")
    # The secret is kept, so yesterday's token is still good.
    request = urllib.request.Request(after["api_url"] + "/v1/files")
    request.add_header("Authorization", f"Bearer {before['tokens']['reader']}")
    with urllib.request.urlopen(request, timeout=40) as answer:
        assert answer.status == 200
    second.end(signal.SIGKILL)
    wait_until(lambda: not alive(embedded_folder), PATIENCE, what="the end of all processes")


def test_with_a_given_database_no_other_is_made(
    given: dict[str, str], start: Callable[..., Up], tmp_path: Path
) -> None:
    up = start(tmp_path / "up", "--once", "--workers", "1", **given)
    assert up.end() == 0, up.err
    assert HEADER in up.out
    assert not (tmp_path / "up" / "postgres").exists()


def test_booklogrs_own_tables_are_used_as_they_are(
    empty_database: Database, given: dict[str, str], start: Callable[..., Up], tmp_path: Path
) -> None:
    with empty_database.connect() as conn:
        demo.install(conn)
        conn.execute("delete from notes")
        conn.execute("delete from books")
    up = start(tmp_path / "up", "--once", "--workers", "1", **given)
    assert up.end() == 0, up.err
    assert "Exported 0 books" in up.out
    assert empty_database.connect().execute("select count(*) from books").fetchone() == (0,)


def test_when_one_of_its_processes_ends_it_says_so_and_stops_all(
    given: dict[str, str], start: Callable[..., Up], tmp_path: Path
) -> None:
    up = start(tmp_path / "up", **given)
    up.ready()
    [api] = [pid for pid in alive(up.folder, "pgfleet.cli.main", "api") if os.getpgid(pid) == pid]
    os.kill(api, signal.SIGKILL)
    assert up.end() == 1
    assert "api was ended by signal 9." in up.err
    assert "api.listening" in up.err  # the end of its log
    assert alive(up.folder) == []
    assert not (up.folder / "up.json").exists()


def test_a_process_that_can_not_start_is_shown_with_its_own_words(
    given: dict[str, str], start: Callable[..., Up], tmp_path: Path
) -> None:
    up = start(tmp_path / "up", "--once", PGFLEET_HANDLERS="no_such_module", **given)
    assert up.end() == 1
    assert "worker-1 ended with exit code 1." in up.err or "worker-2 ended with exit code 1." in up.err
    assert "Handler module no_such_module can't be imported" in up.err
    assert alive(up.folder) == []


def test_sigterm_while_it_starts_stops_what_had_started(
    given: dict[str, str], start: Callable[..., Up], tmp_path: Path
) -> None:
    # Its workers never come to their export, so that it is not up before the signal, however fast the machine.
    (tmp_path / "takes_for_ever.py").write_text("import time\ntime.sleep(600)\n")
    up = start(tmp_path / "up", PGFLEET_HANDLERS="takes_for_ever", PYTHONPATH=str(tmp_path), **given)
    wait_until(lambda: alive(up.folder, "worker"), PATIENCE)
    assert up.end(signal.SIGTERM) == 1
    assert "Interrupted before it was up" in up.err
    assert alive(up.folder) == []


def test_a_port_that_was_asked_for_and_is_taken_is_refused(
    given: dict[str, str], start: Callable[..., Up], tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        up = start(tmp_path / "up", "--once", "--port", str(port), **given)
        assert up.end() == 1
        assert f"The API can't listen on 127.0.0.1, port {port}" in up.err
    free = free_port()
    up = start(tmp_path / "up", "--port", str(free), **given)
    assert up.ready()["api_url"] == f"http://127.0.0.1:{free}"


def test_another_port_is_taken_instead_of_a_busy_default_even_if_it_could_be_shared() -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with ports.choose("127.0.0.1", port, strict=False) as chosen:
            assert chosen != port
        with pytest.raises(PgfleetError, match=str(port)), ports.choose("127.0.0.1", port, strict=True):
            pass
    with ports.choose("127.0.0.1", port, strict=False) as chosen:
        assert chosen == port


def test_two_in_different_folders_start_side_by_side(
    databases: Databases, start: Callable[..., Up], tmp_path: Path
) -> None:
    made = [databases.empty(), databases.empty()]
    ups = [
        start(tmp_path / f"up{n}", "--workers", "1", PGFLEET_DATABASE_URL=database.url)
        for n, database in enumerate(made)
    ]
    urls = [up.ready()["api_url"] for up in ups]
    assert len(set(urls)) == 2
    assert [up.end(signal.SIGTERM) for up in ups] == [0, 0]
    for database in made:
        databases.drop(database)


def test_what_a_killed_run_left_does_not_confuse_the_next(
    given: dict[str, str], start: Callable[..., Up], tmp_path: Path
) -> None:
    folder = tmp_path / "up"
    folder.mkdir()
    (folder / "up.json").write_text("{half")
    (folder / ".up.json.new").write_text("{")
    (folder / "secret").write_text("")
    (folder / "up.lock").write_text(str(os.getpid()))  # a number that is somebody else's by now
    up = start(folder, "--once", "--workers", "1", **given)
    assert up.end() == 0, up.err


def test_settings_of_the_environment_reach_the_processes(
    empty_database: Database, given: dict[str, str], start: Callable[..., Up], tmp_path: Path
) -> None:
    exports = tmp_path / "elsewhere"
    exports.mkdir()
    up = start(
        tmp_path / "up",
        "--once",
        "--workers",
        "1",
        PGFLEET_SCHEMA="fleet",
        PGFLEET_NICKNAME="nick",
        PGFLEET_EXPORT_DIR=str(exports),
        PGFLEET_AUTH_SECRET_KEY=SECRET,
        **given,
    )
    assert up.end() == 0, up.err
    assert len(list(exports.glob("export_*.csv"))) == 1
    assert not (up.folder / "secret").exists()
    row = empty_database.connect().execute("select worker from fleet.tasks").fetchone()
    assert row is not None
    assert row[0].startswith("nick-1:")


def test_tokens_that_the_api_would_refuse_are_noticed_first(start: Callable[..., Up], tmp_path: Path) -> None:
    up = start(tmp_path / "up", PGFLEET_AUTH_JWKS_URL="https://login.example/keys")
    assert up.end() == 1
    assert "PGFLEET_AUTH_JWKS_URL is set" in up.err
    assert not (tmp_path / "up").exists()


def test_a_folder_that_can_not_be_used_is_named(start: Callable[..., Up], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    up = start(tmp_path / "file" / "up")
    assert up.end() == 1
    assert f"The folder {tmp_path / 'file' / 'up'} can't be used: Not a directory." in up.err


def test_a_guard_ends_the_whole_group_of_a_process_that_ignores_sigterm(tmp_path: Path) -> None:
    # `pgfleet.cli.main` of this process is a program that leaves a child and won't go.
    package = tmp_path / "pgfleet" / "cli"
    package.mkdir(parents=True)
    for init in (package.parent / "__init__.py", package / "__init__.py"):
        init.touch()
    pids = tmp_path / "pids"
    (package / "main.py").write_text(
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "os.fork()\n"
        f"fd = os.open({str(pids)!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
        "os.write(fd, b'%d\\n' % os.getpid())\n"
        "time.sleep(600)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "PGFLEET_DIR": str(tmp_path / "mark")}
    with (tmp_path / "lock").open("w") as lock:
        child = Child("stubborn", [], env=env, logs=tmp_path, grace=0.2, lock=lock.fileno())
    wait_until(lambda: pids.exists() and len(pids.read_text().splitlines()) == 2)
    child.check()
    child.stop()
    child.wait()
    wait_until(lambda: not alive(tmp_path / "mark"))
    with pytest.raises(PgfleetError, match=r"stubborn was ended by signal 9\."):
        child.check()


def test_lines_are_cut_to_the_columns_of_a_terminal() -> None:
    assert cut("short", 5) == "short"
    assert cut("longer", 5) == "long…"
    assert cut("源氏物語", 8) == "源氏物語"
    assert cut("源氏物語", 7) == "源氏物…"
    assert cut("源氏物語", 6) == "源氏…"
    assert cut("e\u0301te\u0301s", 4) == "e\u0301te\u0301s"
