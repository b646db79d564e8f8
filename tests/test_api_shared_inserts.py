"""Requests that come at once share an insert; each gets its own task, or its own refusal."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from werkzeug.test import TestResponse

from pgfleet import db, tasks, tokens
from pgfleet.errors import DatabaseAway, InvalidTask, PgfleetError
from pgfleet.settings import Settings
from pgfleet.tasks import Wanted
from pgfleet_api import create_app
from pgfleet_api.creation import Creator
from pgfleet_api.state import KEY
from tests.support.database import Database
from tests.support.fleet import value


def test_creates_of_many_clients_at_once_are_each_answered_with_their_own_task(
    database: Database, settings: Settings
) -> None:
    app = create_app(settings)

    def post(user: int) -> tuple[int, list[TestResponse]]:
        headers = {"Authorization": f"Bearer {tokens.mint(settings, user)}"}
        client = app.test_client()
        return user, [
            client.post("/v1/tasks", json={"type": kind, "data": {"owner_id": user}}, headers=headers)
            for kind in ["csv_export", "csv_export", "csv_export"] * 10
        ]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(post, range(1, 17)))
    app.extensions[KEY].close()
    with database.connect() as conn:
        owners = dict(conn.execute("select id, created_by from tasks").fetchall())
    assert len(owners) == 16 * 30
    for user, responses in answers:
        assert all(response.status_code == 202 for response in responses)
        assert {owners[response.json["task_id"]] for response in responses if response.json} == {user}


def test_one_insert_takes_tasks_of_all_sorts_and_answers_each_in_its_place(
    database: Database, settings: Settings
) -> None:
    conn = db.connect(settings, "a test", patience=settings.answer_timeout)
    conn.execute("select register_type('operators_job')")
    tasks.create(conn, "csv_export", created_by=90, unique_key="held")
    held = stored(database)[90]
    soon = datetime.now(UTC) + timedelta(hours=1)
    wanted = [
        Wanted("csv_export", "a", 1),
        Wanted("csv_export", "b", 2, delay=3600.0),
        Wanted("no such type", None, 3),
        Wanted("csv_export", None, 4, priority=7),
        Wanted("csv_export", None, 5, unique_key="held"),
        Wanted("csv_export", 'é\n"', 6, max_retries=2, retry_delay=1.5, timeout=60.0, node="here"),
        Wanted("csv_export", "", 7),
        Wanted("csv_export", None, 8, run_at=soon, unique_key="free"),
        Wanted("operators_job", None, 9),
        Wanted("operators_job", None, 10, any_type=True),
    ]
    told = tasks.Sent(conn, wanted, tell=True).inserted()
    made = stored(database)
    passed_over = (3, 9)
    assert told.answers == [
        None if user in passed_over else (held, False) if user == 5 else (made[user], True) for user in range(1, 11)
    ]
    assert told.sleepers is not None
    rows = conn.execute(
        """select created_by, type, data, status, priority, max_retries, extract(epoch from retry_delay)::float,
                  extract(epoch from timeout)::float, node, unique_key, run_at > now() + '59 min' from tasks
           where created_by < 90 order by created_by"""
    ).fetchall()
    assert rows == [
        (1, "csv_export", "a", "fresh", 0, None, None, None, None, None, None),
        (2, "csv_export", "b", "waiting", 0, None, None, None, None, None, True),
        (4, "csv_export", None, "fresh", 7, None, None, None, None, None, None),
        (6, "csv_export", 'é\n"', "fresh", 0, 2, 1.5, 60.0, "here", None, None),
        (7, "csv_export", "", "fresh", 0, None, None, None, None, None, None),
        (8, "csv_export", None, "waiting", 0, None, None, None, None, "free", True),
        (10, "operators_job", None, "fresh", 0, None, None, None, None, None, None),
    ]
    assert tasks.Sent(conn, [wanted[2]], tell=True).inserted().answers == [None]
    assert tasks.Sent(conn, [], tell=True).inserted().answers == []
    with pytest.raises(InvalidTask):
        tasks.Sent(conn, [*wanted, Wanted("csv_export", None, None)]).inserted()  # type: ignore[arg-type]
    assert len(stored(database)) == len(made)
    conn.close()


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/workers/nobody/pause", None), ("/v1/schedules/none/enable", None), (f"/v1/events/{300 * 'x'}", {})],
)
def test_creating_goes_on_after_a_call_that_was_refused_in_its_transaction(
    database: Database, settings: Settings, path: str, body: Any
) -> None:
    # psycopg prepares what a connection runs often, and when a transaction fails it has Postgres forget all that was prepared.
    app = create_app(settings)
    client = app.test_client()
    reader, admin = (
        {"Authorization": f"Bearer {tokens.mint(settings, user, role=role)}"}
        for user, role in ((1, "user"), (2, "admin"))
    )
    for _ in range(2):
        assert client.post("/v1/tasks", json={"type": "csv_export"}, headers=reader).status_code == 202
        for _ in range(8):
            assert client.get("/v1/tasks/1", headers=reader).status_code == 200
        assert client.post(path, json=body, headers=admin).status_code in (404, 422)
    assert client.post("/v1/tasks", json={"type": "csv_export"}, headers=reader).status_code == 202
    assert value(database.connect(), "select count(*) from tasks") == 3
    app.extensions[KEY].close()


class Clients:
    """Requests that create a task at once, each in the name of a user of its own."""

    def __init__(self, creator: Creator, wait_until: Callable[..., Any]) -> None:
        self.creator = creator
        self._wait_until = wait_until
        self._threads: list[threading.Thread] = []
        self.answers: dict[int, Any] = {}

    def queue(self, *users: int, max_retries: int = 0) -> None:
        """Returns when they wait for the insert that is under way."""
        queued = len(self.creator._waiting) + len(users)
        self.start(*users, max_retries=max_retries)
        self._wait_until(lambda: len(self.creator._waiting) == queued, what="requests queued")

    def start(self, *users: int, max_retries: int = 0) -> None:
        for user in users:
            self._threads.append(threading.Thread(target=self._create, args=(user, max_retries)))
            self._threads[-1].start()

    def _create(self, user: int, max_retries: int) -> None:
        try:
            self.answers[user] = self.creator.create(Wanted("csv_export", None, user, max_retries=max_retries))
        except (PgfleetError, psycopg.Error) as error:
            self.answers[user] = error

    def join(self) -> None:
        for thread in self._threads:
            thread.join(40)
            assert not thread.is_alive()


def test_requests_that_wait_for_a_keys_holder_leave_threads_to_the_others(
    database: Database, settings: Settings, wait_until: Callable[..., Any]
) -> None:
    app = create_app(replace(settings, api_threads=2))
    headers = {"Authorization": f"Bearer {tokens.mint(settings, 1)}"}

    def post() -> TestResponse:
        body = {"type": "csv_export", "unique_key": "k"}
        return app.test_client().post("/v1/tasks", json=body, headers=headers)

    holder, watcher = database.connect(autocommit=False), database.connect()
    tasks.create(holder, "csv_export", created_by=1, unique_key="k")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post)
        waiting = (
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        )
        wait_until(lambda: value(watcher, waiting) == 1)
        refused = post()
        assert (refused.status_code, "unique_key" in refused.text, "Retry-After" in refused.headers) == (
            503,
            True,
            True,
        )
        assert not first.done()
        holder.rollback()
        assert first.result().status_code == 202
    assert post().status_code == 200
    app.extensions[KEY].close()


@pytest.fixture
def clients(database: Database, settings: Settings, wait_until: Callable[..., Any]) -> Iterator[Clients]:
    app = create_app(settings)
    clients = Clients(app.extensions[KEY].creator, wait_until)
    yield clients
    clients.join()
    app.extensions[KEY].close()


@pytest.fixture
def at_the_gate(database: Database, wait_until: Callable[..., Any]) -> Callable[[int], int]:
    """A user's tasks wait in the middle of their insert while an advisory lock of the user's id is held.

    Called with a user's id: wait until such an insert is there; the process id of its session.
    """
    conn = database.connect()
    conn.execute(
        """create function gate() returns trigger language plpgsql as
        'begin perform pg_advisory_xact_lock_shared(4711, new.created_by::integer); return new; end';
        create trigger gate before insert on tasks for each row execute function gate()"""
    )
    waiting = (
        "select pid from pg_locks join pg_database d on d.oid = database and d.datname = current_database()"
        " where locktype = 'advisory' and classid = 4711 and objid = %s and not granted"
    )
    return lambda user: int(
        wait_until(lambda: conn.execute(waiting, [user]).fetchone(), what=f"user {user}'s insert at its gate")[0]
    )


def shut(database: Database, user: int) -> Callable[[], Any]:
    """Shut the user's gate; call what is returned to open it."""
    conn = database.connect()
    conn.execute("select pg_advisory_lock(4711, %s)", [user])
    return conn.close


def stored(database: Database) -> dict[int, int]:
    return dict(database.connect().execute("select created_by, id from tasks").fetchall())


def test_a_task_that_fails_in_a_shared_insert_fails_alone(
    database: Database, clients: Clients, at_the_gate: Callable[[int], int]
) -> None:
    open_gate = shut(database, 1)
    clients.start(1)
    at_the_gate(1)
    clients.queue(*range(2, 10))
    clients.queue(10, max_retries=5000)
    clients.queue(11, 12)
    open_gate()
    clients.join()
    assert isinstance(clients.answers.pop(10), InvalidTask)
    assert len(clients.answers) == 11
    assert all(created for _, created in clients.answers.values())
    assert stored(database) == {user: answer[0] for user, answer in clients.answers.items()}


def test_an_error_after_the_commit_of_a_shared_insert_makes_none_of_its_tasks_anew(
    database: Database, clients: Clients, at_the_gate: Callable[[int], int]
) -> None:
    database.connect().execute(
        """create or replace function tell_sleepers(ids bigint[]) returns integer language plpgsql as $$
        begin
            if cardinality(ids) > 1 then
                raise exception 'too many notifications in the NOTIFY queue' using errcode = '54000';
            end if;
            return 1;
        end $$"""
    )
    open_gate = shut(database, 1)
    clients.start(1)
    at_the_gate(1)
    clients.queue(2, 3)
    open_gate()
    clients.join()
    assert isinstance(clients.answers[1], tuple)
    assert {type(clients.answers[user]) for user in (2, 3)} == {psycopg.errors.ProgramLimitExceeded}
    assert database.connect().execute("select count(*) from tasks").fetchone() == (3,)


def test_an_insert_is_under_way_before_the_request_that_waits_for_its_answer_wakes(
    database: Database, clients: Clients, at_the_gate: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = shut(database, 1), shut(database, 2)
    finish = clients.creator._finish
    under_way = threading.Event()

    def finish_later(insert: Any) -> None:
        if insert.batch[0].wanted.created_by == 2:
            assert at_the_gate(2) == session
            under_way.set()
        finish(insert)

    monkeypatch.setattr(clients.creator, "_finish", finish_later)
    clients.start(1)
    session = at_the_gate(1)
    clients.queue(2)
    clients.queue(3)
    first()
    at_the_gate(2)
    clients.queue(4)
    assert set(stored(database)) == {1}
    assert under_way.wait(40)
    second()
    clients.join()
    assert stored(database) == {user: answer[0] for user, answer in clients.answers.items()}
    assert set(clients.answers) == {1, 2, 3, 4}


class Parting:
    """A lock on whose first user the scheduler turns its back as soon as it has let go, until ``go``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._first: int | None = None
        self.go = threading.Event()

    def __enter__(self) -> None:
        self._lock.acquire()
        self._first = self._first or threading.get_ident()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if threading.get_ident() == self._first:
            assert self.go.wait(40)


def test_a_request_that_is_made_heir_before_it_waits_leaves_the_sending_to_the_leader(
    database: Database, clients: Clients, at_the_gate: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    creator, lock, begun, early = clients.creator, Parting(), threading.Event(), []
    finish, take_idle = creator._finish, creator._connections.take_idle

    def note(insert: Any) -> None:
        if insert.batch[0].wanted.created_by == 2:
            begun.set()
        finish(insert)

    def let_the_heir_go_on() -> Any:
        lock.go.set()
        early.append(begun.wait(1))
        return take_idle()

    open_gate = shut(database, 1)
    clients.start(1)
    at_the_gate(1)
    monkeypatch.setattr(creator, "_finish", note)
    monkeypatch.setattr(creator, "_lock", lock)
    monkeypatch.setattr(creator._connections, "take_idle", let_the_heir_go_on)
    clients.queue(2)
    open_gate()
    clients.join()
    assert early == [False]
    assert database.connect().execute("select count(*) from tasks").fetchone() == (2,)


@pytest.mark.parametrize("lost", [1, 2])
def test_a_connection_lost_during_an_insert_is_said_to_those_it_was_for_and_the_others_go_on(
    database: Database, clients: Clients, at_the_gate: Callable[[int], int], lost: int
) -> None:
    gates = {1: shut(database, 1), 2: shut(database, 2)}
    clients.start(1)
    at_the_gate(1)
    clients.queue(2)
    clients.queue(3)
    for user in range(1, lost):
        gates[user]()
    session = at_the_gate(lost)
    clients.queue(4)
    database.connect().execute("select pg_terminate_backend(%s)", [session])
    for user in range(lost, 3):
        gates[user]()
    clients.join()
    failed = {user for user, answer in clients.answers.items() if isinstance(answer, DatabaseAway)}
    assert failed == {1: {1}, 2: {2, 3}}[lost]
    assert stored(database) == {u: answer[0] for u, answer in clients.answers.items() if u not in failed}
    assert set(clients.answers) == {1, 2, 3, 4}
