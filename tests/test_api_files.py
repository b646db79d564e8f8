"""``/v1/files``, as BookLogr's web client uses it: polled, downloaded, and never another reader's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from psycopg.sql import SQL, Identifier

from pgfleet import housekeeping
from pgfleet.settings import Settings
from pgfleet_api import create_app
from pgfleet_api.state import KEY
from tests.support.database import Database
from tests.support.fleet import put, register, value
from tests.support.retention import ALL, age, walk

CONTENT = b"title,isbn\nDune,9780441172719\n" * 100


@pytest.fixture
def client(settings: Settings) -> Iterator[FlaskClient]:
    app = create_app(settings)
    yield app.test_client()
    app.extensions[KEY].close()


@pytest.fixture
def get(client: FlaskClient, reader_token: Callable[..., str]) -> Callable[..., Any]:
    """``get(path, user=1, **headers)``."""

    def call(path: str, user: int = 1, **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return client.get(path, headers={"Authorization": f"Bearer {reader_token(user)}", **named})

    return call


@pytest.fixture
def export(database: Database, export_dir: Path) -> Callable[..., str]:
    """``export(filename, owner=1)``: a finished export, its row and its file."""

    def make(
        filename: str, owner: int = 1, created_at: str = "2026-01-31 09:30:00.5+01", content: Any = CONTENT
    ) -> str:
        if content is not None:
            (export_dir / filename).write_bytes(content)
        with database.connect() as conn:
            if value(conn, "select count(*) from workers") == 0:
                register(conn)
            task = put(conn, "success")
            conn.execute(
                "insert into exports (filename, owner_id, created_at, task_id, format, bytes, sha256)"
                " values (%s, %s, %s, %s, 'csv', %s, %s)",
                [filename, owner, created_at, task, len(CONTENT), hashlib.sha256(CONTENT).hexdigest()],
            )
        return filename

    return make


def test_the_list_is_a_bare_array_newest_first_and_empty_without_exports(
    get: Callable[..., Any], export: Callable[..., str]
) -> None:
    assert get("/v1/files").json == []
    export("export_260131_aaaaaaaa.csv")
    export("export_260131_bbbbbbbb.csv")
    export("export_260131_cccccccc.csv", owner=2)
    listed = get("/v1/files").json
    assert [file["filename"] for file in listed] == ["export_260131_bbbbbbbb.csv", "export_260131_aaaaaaaa.csv"]
    assert listed[0].keys() == {"id", "filename", "created_at", "bytes", "sha256", "task_id", "format"}


def test_created_at_is_utc_without_an_offset(database: Database, get: Callable[..., Any], export: Any) -> None:
    with database.connect() as conn:
        name = Identifier(conn.info.dbname)
        conn.execute(SQL("alter database {} set timezone = 'Asia/Tokyo'").format(name))
    export("export_260131_aaaaaaaa.csv")
    assert get("/v1/files").json[0]["created_at"] == "2026-01-31T08:30:00.500000"


def test_a_poll_with_the_etag_is_304_until_a_new_export_is_there(get: Callable[..., Any], export: Any) -> None:
    first = get("/v1/files")
    assert first.headers["Cache-Control"] == "private, no-cache"
    assert "Authorization" in first.headers["Vary"]
    again = get("/v1/files", If_None_Match=first.headers["ETag"])
    assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
    export("export_260131_aaaaaaaa.csv")
    changed = get("/v1/files", If_None_Match=first.headers["ETag"])
    assert changed.status_code == 200
    assert get("/v1/files", If_None_Match="W/" + changed.headers["ETag"]).status_code == 304
    assert get("/v1/files", user=2, If_None_Match=changed.headers["ETag"]).status_code == 200


def test_a_file_that_retention_has_taken_is_neither_listed_nor_found_whatever_the_client_still_has(
    get: Callable[..., Any], export: Any, database: Database, export_dir: Path
) -> None:
    gone, kept = export("export_260131_aaaaaaaaaaaa.csv"), export("export_260131_bbbbbbbbbbbb.csv")
    listed, file = get("/v1/files"), get(f"/v1/files/{gone}")
    conn = database.connect()
    age(conn, [value(conn, "select task_id from exports where filename = %s", gone)], 2)
    (step,) = walk(conn, ALL)
    # The row is gone and the file is not yet: as good as gone.
    for _ in ("before", "after"):
        again = get("/v1/files", If_None_Match=listed.headers["ETag"])
        assert (again.status_code, [row["filename"] for row in again.json]) == (200, [kept])
        assert get("/v1/files", If_None_Match=again.headers["ETag"]).status_code == 304
        missing = get(f"/v1/files/{gone}", If_None_Match=file.headers["ETag"])
        assert (missing.status_code, missing.json["message"]) == (404, f"No file exists with name: {gone}")
        assert get(f"/v1/files/{gone}", Range="bytes=0-3").status_code == 404
        assert housekeeping.remove(export_dir, step.files).failed == []
    assert not (export_dir / gone).exists()
    assert get(f"/v1/files/{kept}").status_code == 200


def test_a_file_that_comes_while_another_goes_is_seen_by_the_next_poll(
    get: Callable[..., Any], export: Any, database: Database
) -> None:
    conn = database.connect()
    names = [export(f"export_260131_{n:012}.csv") for n in range(3)]
    # The second was given its id before the third, and commits after it; retention takes the first meanwhile.
    late = conn.execute("delete from exports where filename = %s returning *", [names[1]]).fetchone()
    before = get("/v1/files")
    conn.execute("insert into exports values (%s, %s, %s, %s, %s, %s, %s, %s)", late)
    conn.execute("delete from exports where filename = %s", [names[0]])
    after = get("/v1/files", If_None_Match=before.headers["ETag"])
    assert (after.status_code, [row["filename"] for row in after.json]) == (200, [names[2], names[1]])
    assert get("/v1/files", If_None_Match=after.headers["ETag"]).status_code == 304


def test_a_download_is_an_attachment_whole_or_in_part(get: Callable[..., Any], export: Any) -> None:
    name = export("export_260131_aaaaaaaa.csv")
    whole = get(f"/v1/files/{name}")
    assert whole.data == CONTENT
    assert whole.headers["Content-Disposition"] == f'attachment; filename="{name}"'
    assert whole.headers["Content-Length"] == str(len(CONTENT))
    assert whole.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert whole.headers["ETag"] == f'"{hashlib.sha256(CONTENT).hexdigest()}"'
    assert get(f"/v1/files/{name}", If_None_Match=whole.headers["ETag"]).status_code == 304
    part = get(f"/v1/files/{name}", Range="bytes=6-9")
    assert (part.status_code, part.data) == (206, CONTENT[6:10])
    assert part.headers["Content-Range"] == f"bytes 6-9/{len(CONTENT)}"
    beyond = get(f"/v1/files/{name}", Range="bytes=999999-")
    assert (beyond.status_code, beyond.json["code"]) == (416, "416")


@pytest.mark.parametrize(
    "wanted", ["bytes=-999999", "items=0-5", "bytes=0-1,3-4", "bytes=9-6", "bytes", f"bytes=0-{len(CONTENT)}000"]
)
def test_a_range_that_is_none_or_holds_all_is_answered_with_the_whole_file(
    get: Callable[..., Any], export: Any, wanted: str
) -> None:
    response = get("/v1/files/" + export("export_260131_aaaaaaaa.csv"), Range=wanted)
    assert response.status_code == (206 if "000" in wanted else 200)
    assert response.data == CONTENT
    assert response.headers["Accept-Ranges"] == "bytes"


def test_preconditions_of_a_download_come_before_its_range(
    client: FlaskClient, get: Callable[..., Any], export: Any, reader_token: Callable[..., str]
) -> None:
    path = "/v1/files/" + export("export_260131_aaaaaaaa.csv")
    etag = f'"{hashlib.sha256(CONTENT).hexdigest()}"'
    for match in ("*", f'"x", {etag}'):
        matched = get(path, If_Match=match)
        assert (matched.status_code, matched.data) == (200, CONTENT)
    other = get(path, If_Match='"x"', Range="bytes=0-1")
    assert (other.status_code, other.json["code"]) == (412, "412")
    assert get(path, If_None_Match=etag, Range="bytes=0-1").status_code == 304
    assert get(path, If_None_Match='"x"', Range="bytes=0-1").status_code == 206
    assert get(path, If_Range=etag, Range="bytes=0-1").status_code == 206
    assert get(path, If_Range=f"W/{etag}", Range="bytes=0-1").status_code == 200
    head = client.head(path, headers={"Authorization": f"Bearer {reader_token(1)}", "Range": "bytes=0-1"})
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(CONTENT)))


def test_without_its_volume_a_download_is_put_off(get: Callable[..., Any], export: Any, export_dir: Path) -> None:
    name = export("export_260131_aaaaaaaa.csv")
    export_dir.rename(export_dir.with_name("away"))
    response = get(f"/v1/files/{name}")
    assert (response.status_code, response.json["code"]) == (503, "503")
    assert "Retry-After" in response.headers
    export_dir.with_name("away").rename(export_dir)
    assert get(f"/v1/files/{name}").data == CONTENT


def test_anothers_file_does_not_exist_not_even_for_an_admin(
    client: FlaskClient, get: Callable[..., Any], export: Any, admin_token: str
) -> None:
    name = export("export_260131_aaaaaaaa.csv")
    theirs, nobodys = get(f"/v1/files/{name}", user=2), get("/v1/files/export_260131_xxxxxxxx.csv", user=2)
    assert theirs.status_code == nobodys.status_code == 404
    assert theirs.text == nobodys.text.replace("xxxxxxxx", "aaaaaaaa")
    assert client.get(f"/v1/files/{name}", headers={"Authorization": f"Bearer {admin_token}"}).status_code == 404


@pytest.mark.parametrize(
    "name",
    [
        "../secret.csv", "..%2fsecret.csv", "%2e%2e%2fsecret.csv", "..", ".", "%00", "a%00.csv", "..%5csecret.csv",
        "%2fetc%2fpasswd", "a b.csv", "é.csv", "x" * 300, "%ff",
    ],
)  # fmt: skip
def test_a_name_that_is_no_exports_is_404(get: Callable[..., Any], export_dir: Path, name: str) -> None:
    (export_dir.parent / "secret.csv").write_text("secret")
    response = get(f"/v1/files/{name}")
    assert response.status_code == 404 or (name in (".", "..") and response.status_code < 300)
    assert "secret\n" not in response.text
    assert "Traceback" not in response.text


def test_a_file_that_is_missing_or_damaged_is_404_and_logged(
    get: Callable[..., Any], export: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = get("/v1/files/" + export("export_260131_aaaaaaaa.csv", content=None))
    damaged = get("/v1/files/" + export("export_260131_bbbbbbbb.csv", content=CONTENT[:-1]))
    for response in (missing, damaged):
        assert (response.status_code, response.json["code"]) == (404, "404")
        assert "anew" in response.json["message"]
    logged = "".join(capsys.readouterr())
    assert "file.missing" in logged
    assert "file.damaged" in logged


def test_files_need_a_token(client: FlaskClient) -> None:
    assert client.get("/v1/files").status_code == 401
    assert client.get("/v1/files/export_260131_aaaaaaaa.csv").status_code == 401
