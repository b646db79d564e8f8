"""The main job as a stranger drives it: API and workers are real processes, all that is known comes over HTTP."""

from __future__ import annotations

import csv
import hashlib
import http.client
import io
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from pgfleet import demo
from tests.support.database import Database
from tests.support.processes import Process, Processes

Wait = Callable[..., Any]
Token = Callable[..., str]

COLUMNS = "title,isbn,description,reading_status,current_page,total_pages,author,rating,notes"
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


class Stranger:
    """One user, with nothing but the API's address and a token."""

    def __init__(self, api: Process, token: str | None) -> None:
        self._place = api.url.removeprefix("http://")
        self._token = token

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, http.client.HTTPMessage, bytes]:
        """(status, headers, content)."""
        connection = http.client.HTTPConnection(self._place, timeout=40)
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """The JSON of a GET that must succeed."""
        status, _, content = self.call("GET", path)
        assert status == 200, content
        return json.loads(content)

    def ask_for_export(self) -> int:
        """POST an export; answers the task's id."""
        status, headers, content = self.call("POST", "/v1/tasks", {"type": "csv_export"})
        assert status == 202, content
        created = json.loads(content)
        assert created["message"] == "Task created."
        assert headers["Location"] == f"/v1/tasks/{created['task_id']}"
        return int(created["task_id"])

    def await_end(self, id: int, wait_until: Wait) -> dict[str, Any]:
        """Poll the task until it has ended; answers its row."""
        task: dict[str, Any] = {}

        def ended() -> bool:
            task.update(self.get(f"/v1/tasks/{id}"))
            return task["status"] not in ("waiting", "fresh", "started")

        wait_until(ended, interval=0.05, what=f"the end of task {id}")
        return task

    def download(self, filename: str) -> bytes:
        status, headers, content = self.call("GET", f"/v1/files/{filename}")
        assert status == 200, content
        assert headers["Content-Disposition"] == f'attachment; filename="{filename}"'
        return content


@pytest.fixture
def api(processes: Processes) -> Process:
    return processes.api()


@pytest.fixture
def library(database: Database) -> None:
    """The demo library stands in the database."""
    demo.install(database.connect())


@pytest.mark.usefixtures("library")
def test_a_reader_posts_polls_and_downloads_the_books(
    api: Process, processes: Processes, database: Database, reader_token: Token, wait_until: Wait
) -> None:
    processes.worker("--nickname", "walter")
    reader = Stranger(api, reader_token(1))
    id = reader.ask_for_export()
    task = reader.await_end(id, wait_until)
    assert task["status"] == "success", task
    result = task["result"]
    assert re.fullmatch(r"export_\d{6}_[A-Za-z0-9]{8,}\.csv", result["filename"])

    files = reader.get("/v1/files")
    assert [(file["filename"], file["task_id"]) for file in files] == [(result["filename"], id)]
    content = reader.download(result["filename"])
    assert (len(content), hashlib.sha256(content).hexdigest()) == (result["bytes"], result["sha256"])

    text = content.decode()
    assert text.startswith(COLUMNS + "\n")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    mine = [book for book in demo.books() if book["owner_id"] == 1]
    assert len(rows) == result["rows"] == len(mine)
    assert {row["isbn"] for row in rows} == {book["isbn"] or "" for book in mine}
    noted = {row["isbn"]: [note["content"] for note in json.loads(row["notes"])] for row in rows}
    for book in mine:
        if book["isbn"] and book["notes"]:
            assert noted[book["isbn"]] == [note["content"] for note in book["notes"]]

    # What an operator sees.
    with database.connect() as conn:
        seen = conn.execute("SELECT status, worker, updated_on FROM tasks").fetchall()
        now = conn.execute("SELECT now()").fetchone()
    [(status, worker, updated_on)] = seen
    assert status == "success"
    assert re.fullmatch(f"walter:{UUID}", worker)
    assert now is not None
    assert 0 <= (now[0] - updated_on).total_seconds() < 60


@pytest.mark.usefixtures("library")
def test_a_second_reader_finds_neither_the_task_nor_the_file_of_the_first(
    api: Process, processes: Processes, reader_token: Token, admin_token: str, wait_until: Wait
) -> None:
    processes.worker()
    first, second = Stranger(api, reader_token(1)), Stranger(api, reader_token(2))
    id = first.ask_for_export()
    filename = first.await_end(id, wait_until)["result"]["filename"]
    for method, path in (
        ("GET", f"/v1/tasks/{id}"),
        ("POST", f"/v1/tasks/{id}/retry"),
        ("DELETE", f"/v1/tasks/{id}"),
        ("GET", f"/v1/files/{filename}"),
    ):
        status, _, content = second.call(method, path)
        assert status == 404, (method, path, content)
        assert json.loads(content)["code"] == "404"
    assert second.get("/v1/files") == []
    assert second.get("/v1/tasks")["list"] == []
    status, _, content = second.call("POST", "/v1/tasks", {"type": "csv_export", "data": {"owner_id": 1}})
    assert status == 403, content
    assert Stranger(api, None).call("GET", f"/v1/files/{filename}")[0] == 401
    # It is still there for its owner; the second gets the second's own books.
    assert first.download(filename)
    own = second.await_end(second.ask_for_export(), wait_until)
    rows = list(csv.DictReader(io.StringIO(second.download(own["result"]["filename"]).decode(), newline="")))
    expected = {book["isbn"] or "" for book in demo.books() if book["owner_id"] == 2}
    assert {row["isbn"] for row in rows} == expected
    # An admin sees the task, but nobody's file.
    admin = Stranger(api, admin_token)
    assert admin.get(f"/v1/tasks/{id}")["created_by"] == 1
    assert admin.call("GET", f"/v1/files/{filename}")[0] == 404


def test_without_booklogrs_tables_the_task_fails_in_clear_words_and_a_retry_succeeds_once_they_exist(
    api: Process, processes: Processes, database: Database, reader_token: Token, wait_until: Wait
) -> None:
    processes.worker()
    reader = Stranger(api, reader_token(1))
    id = reader.ask_for_export()
    task = reader.await_end(id, wait_until)
    assert task["status"] == "failure"
    assert "BookLogr's tables are not in this database." in task["error"]
    assert "Traceback" not in json.dumps(task)
    assert reader.get("/v1/files") == []

    demo.install(database.connect())
    status, _, content = reader.call("POST", f"/v1/tasks/{id}/retry")
    assert status == 200, content
    again = reader.await_end(id, wait_until)
    assert (again["status"], again["attempt"], again["error"]) == ("success", 2, None)
    assert reader.download(again["result"]["filename"]).startswith(COLUMNS.encode())
    status, _, content = reader.call("POST", f"/v1/tasks/{id}/retry")
    assert status == 409, content


@pytest.mark.usefixtures("library")
def test_tasks_posted_before_any_worker_runs_are_done_by_whoever_comes(
    api: Process, processes: Processes, reader_token: Token, wait_until: Wait
) -> None:
    reader = Stranger(api, reader_token(1))
    ids = [reader.ask_for_export() for _ in range(12)]
    assert {reader.get(f"/v1/tasks/{id}")["status"] for id in ids} == {"fresh"}
    for name in ("olga", "walter"):
        processes.worker("--nickname", name, "--concurrency", "2")
    ended = [reader.await_end(id, wait_until) for id in ids]
    assert {task["status"] for task in ended} == {"success"}
    names = [task["result"]["filename"] for task in ended]
    assert len(set(names)) == len(ids)
    assert {file["filename"] for file in reader.get("/v1/files")} == set(names)
    for task in ended:
        content = reader.download(task["result"]["filename"])
        assert hashlib.sha256(content).hexdigest() == task["result"]["sha256"]
