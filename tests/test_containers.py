"""compose.yaml for real: image, three workers, 30 exports, one worker killed half-way.

Deselected unless asked for by ``-m containers``; then an engine with a compose command is demanded, not wished for.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pgfleet import demo, tokens
from pgfleet.settings import Settings
from tests.support.processes import free_port
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parent.parent
CONTEXT = (
    "compose.yaml",
    "Dockerfile",
    ".dockerignore",
    "pyproject.toml",
    "requirements.lock",
    "README.md",
    "LICENSE",
    "sql",
    "shared",
    "api",
    "worker",
)
READERS = (1, 2)
LOAD_LIBRARY = "from pgfleet import db, demo, settings; demo.install(db.connect(settings.from_env(), 'demo'))"


def run(argv: list[str], *, check: bool = True, **popen: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; where it fails, with ``check``, the test does, showing what it wrote."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600, **popen)
    if check and done.returncode != 0:
        raise RuntimeError(f"{argv} ended with {done.returncode}:\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}")
    return done


def compose_command() -> list[str]:
    """``docker compose`` where it is installed, else the older ``docker-compose``."""
    if run(["docker", "compose", "version"], check=False).returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"]


class Stack:
    """One project of compose.yaml, in a copy of the checkout as a fresh clone would be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.name = f"pgfleet-test-{secrets.token_hex(4)}"
        self.secret = secrets.token_hex(32)
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PGFLEET_")},
            "POSTGRES_PASSWORD": "p@ss: 'word\"/?#%" + secrets.token_hex(8),
            "PGFLEET_AUTH_SECRET_KEY": self.secret,
            "PGFLEET_API_PORT": str(self.port),
            "PGFLEET_IMAGE_TAG": self.name,
            "PGFLEET_CONCURRENCY": "4",
        }
        self._compose = [*compose_command(), "-p", self.name]

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run([*self._compose, *arguments], check=check, cwd=self.folder, env=self.env)

    def up(self) -> None:
        """Everything with three workers, until all are healthy."""
        self.compose("up", "-d", "--scale", "worker=3")
        wait_until(lambda: set(self.health().values()) == {"healthy"}, 120, interval=0.5, what="all are healthy")

    def containers(self, service: str) -> list[str]:
        """The ids of a service's running containers."""
        return self.compose("ps", "-q", service).stdout.split()

    def inspect(self, service: str) -> list[dict[str, Any]]:
        ids = self.containers(service)
        found: list[dict[str, Any]] = json.loads(run(["docker", "inspect", *ids]).stdout) if ids else []
        return found

    def health(self) -> dict[str, str]:
        """The health of every container that serves, by name."""
        return {
            container["Name"]: container["State"].get("Health", {}).get("Status", "none")
            for service in ("postgres", "api", "worker")
            for container in self.inspect(service)
        }

    def sql(self, query: str) -> list[list[str]]:
        """The rows of a query, as texts, asked by psql within the container of Postgres."""
        out = self.compose("exec", "-T", "postgres", *PSQL, "-c", query).stdout
        return [line.split("|") for line in out.splitlines()]

    @contextmanager
    def books_locked(self) -> Iterator[None]:
        """While the block runs no export can read ``books``: it waits, started."""
        argv = ["docker", "exec", "-i", self.containers("postgres")[0], *PSQL]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as psql:
            assert psql.stdin is not None
            assert psql.stdout is not None
            psql.stdin.write("begin; lock table books in access exclusive mode; select 'locked';\n")
            psql.stdin.flush()
            assert psql.stdout.readline() == "locked\n"
            try:
                yield
            finally:
                psql.stdin.write("commit;\n")
                psql.stdin.close()
                psql.wait(30)

    def call(self, user: int, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        token = tokens.mint(Settings(auth_secret_key=self.secret), user)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def ask_for_exports(self, count: int) -> dict[int, int]:
        """POST so many exports, by each reader in turn; the readers by task."""
        asked: dict[int, int] = {}
        for n in range(count):
            user = READERS[n % len(READERS)]
            status, content = self.call(user, "POST", "/v1/tasks", {"type": "csv_export"})
            assert status == 202, content
            asked[json.loads(content)["task_id"]] = user
        return asked

    def task(self, user: int, id: int) -> dict[str, Any]:
        status, content = self.call(user, "GET", f"/v1/tasks/{id}")
        assert status == 200, content
        row: dict[str, Any] = json.loads(content)
        return row

    def await_success(self, asked: dict[int, int]) -> list[dict[str, Any]]:
        def ended() -> list[dict[str, Any]]:
            rows = [self.task(user, id) for id, user in asked.items()]
            assert not [row for row in rows if row["status"] in ("failure", "crashed", "cancelled")]
            left = [row["id"] for row in rows if row["status"] != "success"]
            assert not left, f"{left} are not done"
            return rows

        return wait_until(ended, 120, interval=0.2, what="all exports succeed")


PSQL = ("psql", "-U", "booklogr", "-d", "booklogr", "-qAtX", "-v", "ON_ERROR_STOP=1")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image and compose need of the checkout, as a fresh clone has it."""
    folder = tmp_path_factory.mktemp("clone")
    for name in CONTEXT:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, folder / name)
    (folder / "volumes" / "exports").mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def stack(clone: Path) -> Iterator[Stack]:
    made = Stack(clone)
    try:
        made.compose("build")
        made.up()
        made.compose("exec", "-T", "api", "python", "-c", LOAD_LIBRARY)
        yield made
    except BaseException:
        print(made.compose("logs", "--tail=100", check=False).stdout)
        raise
    finally:
        owner = f"{os.geteuid()}:{os.getegid()}"
        give_back = ["--user", "0", "--cap-add", "CHOWN", "--entrypoint", "chown", f"pgfleet:{made.name}"]
        mount = ["-v", f"{clone}/volumes/exports:/exports"]
        run(["docker", "run", "--rm", *mount, *give_back, "-R", owner, "/exports"], check=False)
        made.compose("down", "--volumes", "--remove-orphans", "--timeout", "30", check=False)
        run(["docker", "rmi", "--force", f"pgfleet:{made.name}"], check=False)


def test_without_secrets_nothing_starts_and_the_missing_one_is_named(clone: Path) -> None:
    given = {"POSTGRES_PASSWORD": "x", "PGFLEET_AUTH_SECRET_KEY": "y"}
    for missing in given:
        env = {name: value for name, value in os.environ.items() if not name.startswith("PGFLEET_")}
        env.pop("POSTGRES_PASSWORD", None)
        env |= {name: value for name, value in given.items() if name != missing}
        done = run([*compose_command(), "config"], check=False, cwd=clone, env=env)
        assert done.returncode != 0
        assert f"set {missing} to" in done.stderr


def test_containers_run_unprivileged_and_write_nowhere_but_where_they_must(stack: Stack) -> None:
    stack.up()
    for service in ("api", "worker"):
        for container in stack.inspect(service):
            assert container["Config"]["User"] == "10001:10001"
            assert container["HostConfig"]["ReadonlyRootfs"]
            assert container["HostConfig"]["CapDrop"] == ["ALL"]
            id = container["Id"]
            assert run(["docker", "exec", id, "id", "-u"]).stdout.strip() == "10001"
            assert run(["docker", "exec", id, "touch", "/app/x", "/opt/pgfleet/x"], check=False).returncode != 0
            writes = run(["docker", "exec", id, "touch", "/exports/.probe"], check=False).returncode == 0
            assert writes == (service == "worker")
    [postgres] = stack.inspect("postgres")
    assert postgres["HostConfig"]["ReadonlyRootfs"]
    status = run(["docker", "exec", postgres["Id"], "cat", "/proc/1/status"]).stdout
    assert "Uid:\t0" not in status
    assert not postgres["HostConfig"]["PortBindings"]
    [api] = stack.inspect("api")
    assert {b["HostIp"] for ports in api["HostConfig"]["PortBindings"].values() for b in ports} == {"127.0.0.1"}


def test_thirty_exports_are_all_served_although_a_worker_is_killed_half_way(stack: Stack) -> None:
    stack.up()
    asked = stack.ask_for_exports(15)
    stack.await_success(asked)
    with stack.books_locked():
        asked |= stack.ask_for_exports(15)

        def held_by_each() -> dict[str, list[str]]:
            rows = stack.sql(
                "select w.node, t.id from tasks t join workers w on w.id = t.worker where status = 'started'"
            )
            held: dict[str, list[str]] = {}
            for node, id in rows:
                held.setdefault(node, []).append(id)
            assert len(held) == 3, held
            return held

        held = wait_until(held_by_each, 30, interval=0.2)
        victim, backlog = max(held.items(), key=lambda item: len(item[1]))
        run(["docker", "kill", "--signal", "KILL", victim])  # a node is a container's host name, and that its id
        killed = time.monotonic()
    rows = stack.await_success(asked)
    print(f"all 30 done {time.monotonic() - killed:.1f} s after the kill; the killed worker held {len(backlog)}")
    assert len(rows) == 30

    # Whoever was killed has finished nothing since; what it held was started once more, by another.
    for row in rows:
        if str(row["id"]) in backlog:
            assert row["attempt"] == 2, row
            assert row["worker"].rpartition(":")[2] not in {
                line[0].rpartition(":")[2] for line in stack.sql(f"select id from workers where node = '{victim}'")
            }

    books = {user: sum(1 for book in demo.books() if book["owner_id"] == user) for user in READERS}
    for row in rows:
        result, user = row["result"], asked[row["id"]]
        assert result["rows"] == books[user]
        status, content = stack.call(user, "GET", f"/v1/files/{result['filename']}")
        assert status == 200
        assert (len(content), hashlib.sha256(content).hexdigest()) == (result["bytes"], result["sha256"])
        assert stack.call(3 - user, "GET", f"/v1/files/{result['filename']}")[0] == 404
    files = {path.name for path in (stack.folder / "volumes" / "exports").glob("*.csv")}
    assert {row["result"]["filename"] for row in rows} <= files


def test_a_stop_ends_api_and_workers_in_order(stack: Stack) -> None:
    stack.up()
    ids = [*stack.containers("worker"), *stack.containers("api")]
    stack.compose("stop", "worker", "api")
    for container in json.loads(run(["docker", "inspect", *ids]).stdout):
        assert container["State"]["ExitCode"] == 0, container["Name"]
    assert stack.sql("select count(*) from workers where lost_at is null and lease_expires_at > now()") == [["0"]]
    stack.up()
