"""Requests that come at once share an insert; each gets its own task, or its own refusal."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from werkzeug.test import TestResponse

from pgfleet import tokens
from pgfleet.errors import InvalidTask
from pgfleet.settings import Settings
from pgfleet.tasks import Wanted
from pgfleet_api import create_app
from pgfleet_api.creation import LEADERS
from pgfleet_api.state import KEY
from tests.support.database import Database


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


def test_a_task_that_fails_in_a_shared_insert_fails_alone(
    database: Database, settings: Settings, wait_until: Callable[..., Any]
) -> None:
    app = create_app(settings)
    creator = app.extensions[KEY].creator
    answers: dict[int, Any] = {}

    def create_one(user: int, max_retries: int) -> None:
        try:
            answers[user] = creator.create(Wanted("csv_export", None, user, max_retries=max_retries))
        except InvalidTask as error:
            answers[user] = error

    gate, watch = database.connect(), database.connect()
    threads = [threading.Thread(target=create_one, args=(n, 5000 if n == 10 else 0)) for n in range(1, 13)]
    with gate.transaction():
        gate.execute("lock table tasks in access exclusive mode")
        for thread in threads[:LEADERS]:
            thread.start()
        held = (
            "select count(*) from pg_stat_activity where application_name = 'pgfleet api' and wait_event_type = 'Lock'"
            " and datname = current_database()"
        )
        wait_until(lambda: watch.execute(held).fetchone() == (LEADERS,), what="the first inserts at the gate")
        for thread in threads[LEADERS:]:
            thread.start()
        wait_until(lambda: len(creator._waiting) == len(threads) - LEADERS, what="the others queued")
    for thread in threads:
        thread.join(40)
    app.extensions[KEY].close()
    assert isinstance(answers.pop(10), InvalidTask)
    assert len(answers) == 11
    assert all(created for _, created in answers.values())
    assert dict(watch.execute("select created_by, id from tasks").fetchall()) == {u: a[0] for u, a in answers.items()}
