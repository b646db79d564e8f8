"""The fixtures of all tests. One Postgres a run (see support/server.py), one database a test (support/database.py).

With pytest-xdist the controlling process owns the server and tells its workers where it is.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog
from hypothesis import HealthCheck, settings
from psycopg.sql import SQL, Identifier

from pgfleet.settings import Settings
from tests.support import server as servers
from tests.support.database import Database, Databases
from tests.support.processes import Processes
from tests.support.waiting import wait_until as _wait_until

SERVER = pytest.StashKey[servers.Server]()
RUN = pytest.StashKey[str]()
PROCESSES = pytest.StashKey[Processes]()

# How long an example takes is the machine's affair: by default one of over 0.2 s fails its test.
settings.register_profile("pgfleet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pgfleet")


def _server(config: pytest.Config) -> tuple[str, str]:
    """(url, run id) of the run's server, which is started at the first call."""
    given = getattr(config, "workerinput", None)
    if given is not None:
        return given["pgfleet_server"], given["pgfleet_run"]
    if SERVER not in config.stash:
        config.stash[RUN] = uuid.uuid4().hex[:8]
        config.stash[SERVER] = servers.start()
    return config.stash[SERVER].url, config.stash[RUN]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """xdist, in the controlling process, for each worker before it starts."""
    node.workerinput["pgfleet_server"], node.workerinput["pgfleet_run"] = _server(node.config)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say which Postgres was used: a run that fell back to another server must not pass for the one asked for."""
    if SERVER in config.stash:
        with psycopg.connect(config.stash[SERVER].url) as conn:
            row = conn.execute("select current_setting('server_version')").fetchone()
        terminalreporter.write_line(f"Test database: {config.stash[SERVER].mode}, Postgres {row[0] if row else '?'}")


def pytest_unconfigure(config: pytest.Config) -> None:
    if SERVER not in config.stash:
        return
    server = config.stash[SERVER]
    try:
        if server.mode == "url":  # the others go with all they hold
            with psycopg.connect(server.url, autocommit=True) as conn:
                mine = conn.execute(
                    "select datname from pg_database where starts_with(datname, %s)",
                    [f"pgfleet_test_{config.stash[RUN]}_"],
                )
                for row in mine.fetchall():
                    conn.execute(SQL("drop database if exists {} with (force)").format(Identifier(row[0])))
    finally:
        server.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Show what a failed test's processes wrote."""
    report: Any = yield
    if report.failed and PROCESSES in item.stash:
        report.sections += item.stash[PROCESSES].logs()
    return report


@pytest.fixture(autouse=True)
def logs_as_at_first() -> Iterator[None]:
    """A command that a test runs in this process sets the log up for its own level and the stream of its time."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_outside() -> Iterator[None]:
    """The caller's own PGFLEET_* must not reach the tests (PGFLEET_TEST_* have been read by now or are for CI)."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PGFLEET_")]:
            if not name.startswith("PGFLEET_TEST_"):
                patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def databases(request: pytest.FixtureRequest) -> Iterator[Databases]:
    """Makes databases on the run's server, for tests that need several."""
    made = Databases(*_server(request.config))
    yield made
    made.close()


@pytest.fixture
def database(databases: Databases) -> Iterator[Database]:
    """A migrated database of this test's own."""
    made = databases.migrated()
    yield made
    databases.drop(made)


@pytest.fixture
def empty_database(databases: Databases) -> Iterator[Database]:
    """A database of this test's own with nothing in it."""
    made = databases.empty()
    yield made
    databases.drop(made)


@pytest.fixture
def export_dir(tmp_path: Path) -> Path:
    """An empty folder for the volume that API and workers share."""
    folder = tmp_path / "exports"
    folder.mkdir()
    return folder


@pytest.fixture
def settings(database: Database, export_dir: Path, tmp_path: Path) -> Settings:
    """Settings for ``database`` and ``export_dir``, with quick lease, heartbeat and poll."""
    return database.settings(export_dir=export_dir, dir=tmp_path / "pgfleet")


@pytest.fixture
def wait_until() -> Callable[..., Any]:
    """See :func:`tests.support.waiting.wait_until`."""
    return _wait_until


@pytest.fixture
def processes(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Iterator[Processes]:
    """Starts real ``pgfleet`` processes with ``settings``; all are dead when the test is over."""
    folder = tmp_path / "logs"
    folder.mkdir()
    made = Processes(settings, folder)
    request.node.stash[PROCESSES] = made
    yield made
    made.end()


@pytest.fixture
def reader_token(settings: Settings) -> Callable[..., str]:
    """``reader_token(user_id)``: a valid bearer token of that user."""
    from pgfleet import tokens

    return lambda user_id=1, **kw: tokens.mint(settings, user_id, **kw)


@pytest.fixture
def admin_token(settings: Settings) -> str:
    """A valid bearer token of an admin whose id, 999, is no reader's in these tests."""
    from pgfleet import tokens

    return tokens.mint(settings, 999, role="admin")


@pytest.fixture
def client(settings: Settings) -> Iterator[Any]:
    """Calls an API with ``settings``, in this process."""
    from pgfleet_api import create_app
    from pgfleet_api.state import KEY

    app = create_app(settings)
    yield app.test_client()
    app.extensions[KEY].close()


@pytest.fixture
def as_user(client: Any, settings: Settings) -> Callable[..., Any]:
    """``as_user(id, role=None)(method, path, **kw)``: a call with that user's token."""
    from pgfleet import tokens

    def user(id: int, role: str | None = None) -> Callable[..., Any]:
        token = tokens.mint(settings, id, role=role)

        def call(method: str, path: str, **kw: Any) -> Any:
            headers = {"Authorization": f"Bearer {token}", **kw.pop("headers", {})}
            return client.open(path, method=method, headers=headers, **kw)

        return call

    return user


@pytest.fixture
def reader(as_user: Callable[..., Any]) -> Any:
    """Calls as user 1, an ordinary reader."""
    return as_user(1)


@pytest.fixture
def admin(as_user: Callable[..., Any]) -> Any:
    """Calls as an admin, user 999."""
    return as_user(999, "admin")


@pytest.fixture
def run(settings: Settings) -> Callable[..., Any]:
    """``run("tasks", "list", X="…")``: the ``pgfleet`` command with the test's settings and the variables PGFLEET_X."""
    from tests.support.cli import runner

    return runner(settings)


@pytest.fixture
def own_postgres() -> Iterator[Any]:
    """A durable EmbeddedPostgres of this test's own, to stop, kill and start again; has no database of ours yet."""
    bin_dir = os.environ.get("PGFLEET_TEST_PG_BIN")
    postgres, remove = servers.embedded(Path(bin_dir) if bin_dir else None, {})
    yield postgres
    remove()


@pytest.fixture
def away(own_postgres: Any) -> Iterator[Database]:
    """A migrated database on a Postgres of this test's own, which may go away."""
    from pgfleet import migrate

    database = Database(own_postgres.url())
    migrate.migrate(database.settings())
    yield database
    database.close()
