"""The export of a reader's books: its columns, its quoting, its guard against formulas, its moment, its memory."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgfleet import demo, sql, volume
from pgfleet.csv_guard import FORMULA_STARTS, guard, unguard
from pgfleet_worker.handlers import csv_export
from pgfleet_worker.handlers.csv_export import ExportFile, LibraryMissing, write_export
from tests.support.database import Database
from tests.support.fleet import value
from tests.support.waiting import wait_until

HEADER = "title,isbn,description,reading_status,current_page,total_pages,author,rating,notes"
TEXTS = ("title", "isbn", "description", "reading_status", "author")


@pytest.fixture
def conn(database: Database) -> Any:
    """A connection as a handler has it (a transaction is opened by the first statement), tables there and empty."""
    with database.connect() as made:
        made.execute(sql.text("demo/library.sql"))
    with psycopg.connect(database.url) as handlers:
        yield handlers


def add(conn: Any, owner_id: int = 1, notes: tuple[str, ...] = (), **columns: Any) -> int:
    """One more book, committed; its id."""
    columns = {"title": None, "isbn": None, "description": None, "author": None, "reading_status": None} | columns
    names = psycopg.sql.SQL(", ").join(map(psycopg.sql.Identifier, columns))
    values = psycopg.sql.SQL(", ").join(map(psycopg.sql.Placeholder, columns))
    query = psycopg.sql.SQL("insert into books (owner_id, {}) values ({}, {}) returning id")
    book_id: int = conn.execute(query.format(names, owner_id, values), columns).fetchone()[0]
    for content in notes:
        conn.execute("insert into notes (book_id, content) values (%s, %s)", [book_id, content])
    conn.commit()
    return book_id


def export(conn: Any, folder: Path, owner_id: int = 1) -> tuple[ExportFile, str]:
    made = write_export(conn, owner_id, folder, task_id=5, attempt=1)
    return made, (folder / made.filename).read_bytes().decode("utf-8")


def cells(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(text, newline=""), strict=True))


def test_the_columns_come_in_the_order_of_the_contract(conn: Any, export_dir: Path) -> None:
    add(
        conn, title="Dune", isbn="9780441172719", description="Sand", reading_status="Read", current_page=1,
        total_pages=535, author="Frank Herbert", rating="4.5", subtitle="not exported",
    )  # fmt: skip
    _, text = export(conn, export_dir)
    assert text == f"{HEADER}\nDune,9780441172719,Sand,Read,1,535,Frank Herbert,4.50,[]\n"


def test_a_reader_without_books_gets_the_header_line(conn: Any, export_dir: Path) -> None:
    made, text = export(conn, export_dir)
    assert (made.rows, text) == (0, HEADER + "\n")


def test_the_result_tells_name_rows_bytes_and_digest(conn: Any, export_dir: Path) -> None:
    add(conn, title="ひらがな\nsecond line")
    add(conn, title="two")
    made, text = export(conn, export_dir)
    raw = text.encode()
    assert re.fullmatch(r"export_\d{6}_[A-Za-z0-9]{12}\.csv", made.filename)
    assert made == ExportFile(made.filename, 2, len(raw), hashlib.sha256(raw).hexdigest(), 1)
    assert not raw.startswith(b"\xef\xbb\xbf")
    assert [path.name for path in export_dir.iterdir()] == [made.filename]


def test_null_is_an_empty_field_and_an_empty_text_a_quoted_one(conn: Any, export_dir: Path) -> None:
    add(conn, title=None, description="")
    assert export(conn, export_dir)[1] == f'{HEADER}\n,,"",,,,,,[]\n'


def test_only_the_owners_books_and_notes_are_exported_in_the_order_of_their_ids(conn: Any, export_dir: Path) -> None:
    for title in ("z", "a", "m"):
        add(conn, title=title, notes=(f"mine {title}",))
        add(conn, owner_id=2, title=f"other {title}", notes=("not mine",))
    add(conn, owner_id=2, title="x")
    conn.execute("update books set owner_id = null where title = 'x'")
    made, text = export(conn, export_dir)
    assert [row["title"] for row in cells(text)] == ["z", "a", "m"]
    assert "not mine" not in text
    assert made.rows == 3


def test_notes_are_a_json_array_in_the_order_of_their_ids(conn: Any, export_dir: Path) -> None:
    book = add(conn, title="t")
    conn.execute(
        "insert into notes (book_id, content, quote_page, visibility, created_on) values"
        " (%(b)s, %(text)s, 12, 'public', '2025-02-03 04:05:06.5'), (%(b)s, '=1+1', null, null, null)",
        {"b": book, "text": 'say "hi", twice\nor 3×🐍 \\ \t'},
    )
    notes = json.loads(cells(export(conn, export_dir)[1])[0]["notes"])
    assert [list(note) for note in notes] == [["content", "quote_page", "visibility", "created_on"]] * 2
    assert notes[0] == {
        "content": 'say "hi", twice\nor 3×🐍 \\ \t', "quote_page": 12, "visibility": "public",
        "created_on": "2025-02-03T04:05:06.500000+00:00",
    }  # fmt: skip
    assert datetime.fromisoformat(notes[0]["created_on"]).tzinfo is not None
    assert notes[1] == {"content": "=1+1", "quote_page": None, "visibility": None, "created_on": None}


def test_the_demo_library_comes_back_from_its_csv_cell_for_cell(conn: Any, export_dir: Path) -> None:
    demo.install(conn)
    conn.commit()
    for reader in (1, 2):
        books = [book for book in demo.books() if book["owner_id"] == reader]
        made, text = export(conn, export_dir, reader)
        assert made.rows == len(books)
        for row, book in zip(cells(text), books, strict=True):
            assert {name: unguard(row[name]) for name in TEXTS} == {name: book[name] or "" for name in TEXTS}
            assert [n["content"] for n in json.loads(row["notes"])] == [n["content"] for n in book["notes"]]
            for number in ("current_page", "total_pages", "rating"):
                assert (float(row[number]) if row[number] else None) == book[number]


AWKWARD = [
    "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "＋1", "－1", "＠x", "'=1", "''=1", "'", "''", "",
    "'Salem's Lot", "plain", " =1", "a=1", '"=1"', 'a "quoted" cell', "a,b;c", "line\nline\r\nline\r", "\\.", "\\",
    "😀=", "e\u0301", "\u200f=1", "NULL", " ", "'\t", "\x01", "\uffff",
]  # fmt: skip


def test_every_text_column_is_guarded_in_sql_as_in_python(conn: Any, export_dir: Path) -> None:
    for text in AWKWARD:
        add(conn, **dict.fromkeys(TEXTS, text))
    rows = cells(export(conn, export_dir)[1])
    for row, text in zip(rows, AWKWARD, strict=True):
        for name in TEXTS:
            assert row[name] == guard(text)
            assert unguard(row[name]) == text
            assert row[name][:1] not in FORMULA_STARTS


def test_numbers_are_not_guarded(conn: Any, export_dir: Path) -> None:
    add(conn, title="t", current_page=-1, rating="-1.5")
    row = cells(export(conn, export_dir)[1])[0]
    assert (row["current_page"], row["rating"]) == ("-1", "-1.50")


@given(st.text() | st.text(alphabet=[*FORMULA_STARTS, "'", "a"]))
def test_the_guard_can_be_taken_off(text: str) -> None:
    assert unguard(guard(text)) == text
    assert guard(text)[:1] not in FORMULA_STARTS
    assert guard(text) in (text, f"'{text}")


@given(st.text(alphabet=[*FORMULA_STARTS, "'", "a"]), st.text(alphabet=[*FORMULA_STARTS, "'", "a"]))
def test_two_texts_never_become_the_same_cell(one: str, other: str) -> None:
    assert (guard(one) == guard(other)) == (one == other)


def test_a_file_from_elsewhere_is_not_changed_by_an_import() -> None:
    assert [unguard(cell) for cell in ("=1+1", "'Tis", "plain", "", "'")] == ["=1+1", "'Tis", "plain", "", "'"]


def test_no_statistics_however_old_make_the_notes_be_aggregated_once_a_book(conn: Any) -> None:
    conn.execute("insert into books (title, owner_id) select 'x', 1 + g % 2 from generate_series(1, 80) g")
    conn.execute("insert into notes (book_id, content) select g, 'n' from generate_series(1, 40) g")
    conn.execute("analyze books, notes")
    conn.execute("insert into books (title, owner_id) select 'x', 3 from generate_series(1, 20000) g")
    conn.execute("insert into notes (book_id, content) select id, 'n' from books where owner_id = 3 and id % 10 = 0")
    copy = sql.queries("export_books")["copy"]
    query = psycopg.sql.SQL(copy[copy.index("COPY (") + 6 : copy.rindex(") TO STDOUT")]).format(owner_id=3)

    def plan() -> str:
        return "\n".join(row[0] for row in conn.execute(psycopg.sql.SQL("explain {}").format(query)))

    assert "Nested Loop" in plan(), "the trap this test is about is gone: so may be the setting"
    conn.execute(sql.queries("export_books")["settings"])
    assert "Nested Loop" not in plan()


@pytest.mark.parametrize("chunk", [1, 100, 10**9])
def test_the_size_of_a_write_changes_nothing(
    conn: Any, export_dir: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    demo.install(conn)
    expected = export(conn, export_dir)[0]
    monkeypatch.setattr(csv_export, "CHUNK", chunk)
    made = export(conn, export_dir)[0]
    assert (made.sha256, made.rows, made.bytes) == (expected.sha256, expected.rows, expected.bytes)


def test_the_export_is_of_one_moment(conn: Any, database: Database, export_dir: Path) -> None:
    conn.execute("insert into books (title, owner_id) select repeat('x', 500), 1 from generate_series(1, 20000)")
    conn.commit()
    seen: list[int] = []

    def change_the_library(written: int) -> None:
        if not seen:
            with database.connect() as other:
                other.execute("insert into books (title, owner_id) values ('too late', 1)")
                other.execute("delete from books where id % 2 = 0 and owner_id = 1")
        seen.append(written)

    made = write_export(conn, 1, export_dir, 5, 1, change_the_library)
    assert made.rows == 20000
    assert b"too late" not in (export_dir / made.filename).read_bytes()
    assert len(seen) > 10
    assert seen == sorted(seen)


def test_a_limit_that_the_role_has_for_its_requests_is_none_for_exports(
    conn: Any, database: Database, export_dir: Path
) -> None:
    add(conn, title="slow")
    limits = ["statement_timeout", *(["transaction_timeout"] if conn.info.server_version >= 170000 else [])]
    for name in limits:
        conn.execute(psycopg.sql.SQL("set {} = '300ms'").format(psycopg.sql.Identifier(name)))
    conn.commit()
    holder = database.connect(autocommit=False)
    holder.execute("lock table notes in access exclusive mode")
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(export, conn, export_dir)
        watcher = database.connect()
        since = "select now() - query_start from pg_stat_activity where pid = %s and wait_event_type = 'Lock'"
        wait_until(lambda: (value(watcher, since, conn.info.backend_pid) or timedelta()) > timedelta(seconds=0.5))
        holder.rollback()
        assert made.result()[0].rows == 1
    assert value(conn, "show statement_timeout") == "300ms"


def test_the_transaction_is_over_afterwards(conn: Any, export_dir: Path) -> None:
    write_export(conn, 1, export_dir, 5, 1)
    assert conn.info.transaction_status is psycopg.pq.TransactionStatus.IDLE


def test_an_export_called_off_half_way_leaves_no_file_and_a_usable_connection(conn: Any, export_dir: Path) -> None:
    conn.execute("insert into books (title, owner_id) select repeat('x', 500), 1 from generate_series(1, 20000)")
    conn.commit()

    def stop(written: int) -> None:
        assert [volume.parse_temporary_name(path.name) for path in export_dir.iterdir()] == [(5, 1)]
        raise KeyError(written)

    with pytest.raises(KeyError):
        write_export(conn, 1, export_dir, 5, 1, stop)
    assert list(export_dir.iterdir()) == []
    assert conn.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("drop table notes", "not in this database"),
        ("drop table notes, books", "not in this database"),
        ("alter table books drop column rating", "not as this version expects"),
        ("alter table books alter author type bytea using ''", "not as this version expects"),
    ],
)
def test_a_library_that_is_not_booklogrs_is_a_clear_error(
    conn: Any, export_dir: Path, damage: str, message: str
) -> None:
    conn.execute(damage)
    conn.commit()
    with pytest.raises(LibraryMissing, match=message) as caught:
        write_export(conn, 1, export_dir, 5, 1)
    assert caught.value.hint
    assert list(export_dir.iterdir()) == []
    assert conn.info.transaction_status is psycopg.pq.TransactionStatus.IDLE


def test_a_lost_connection_is_not_taken_for_a_missing_library(conn: Any, database: Database, export_dir: Path) -> None:
    conn.execute("insert into books (title, owner_id) select repeat('x', 500), 1 from generate_series(1, 20000)")
    conn.commit()

    def cut(written: int) -> None:
        with database.connect() as other:
            other.execute("select pg_terminate_backend(%s)", [conn.info.backend_pid])

    with pytest.raises(psycopg.OperationalError):
        write_export(conn, 1, export_dir, 5, 1, cut)
    assert list(export_dir.iterdir()) == []


def test_a_missing_volume_is_noticed_before_postgres_is_asked(conn: Any, tmp_path: Path) -> None:
    with pytest.raises(volume.VolumeError, match="missing"):
        write_export(conn, 1, tmp_path / "nowhere", 5, 1)
    assert conn.info.transaction_status is psycopg.pq.TransactionStatus.IDLE


def test_an_owner_that_no_integer_holds_has_no_books(conn: Any, export_dir: Path) -> None:
    for owner in (-1, 2**40, 2**63):
        assert export(conn, export_dir, owner)[0].rows == 0


def test_the_text_is_utf_8_whatever_the_connection_speaks(conn: Any, export_dir: Path) -> None:
    add(conn, title="naïve")
    conn.execute("set client_encoding to latin1")
    conn.commit()
    assert cells(export(conn, export_dir)[1])[0]["title"] == "naïve"
