"""The demo library: real books, many scripts, two readers, loaded once."""

from __future__ import annotations

import threading
import unicodedata
from collections import Counter

import pytest

from pgfleet import demo
from tests.support.database import Database

BOOKS = demo.books()
STATUSES = {"Read", "Currently reading", "To be read", "Did not finish"}


def is_isbn13(text: str) -> bool:
    """ISO 2108: 978 or 979, digits weighted 1 and 3 in turn, a sum divisible by ten."""
    weighted = sum(int(digit) * (1, 3)[place % 2] for place, digit in enumerate(text))
    return len(text) == 13 and text[:3] in ("978", "979") and weighted % 10 == 0


def test_at_least_66_books_have_title_author_valid_isbn_and_page_count() -> None:
    whole = [b for b in BOOKS if b["title"] and b["author"] and b["total_pages"] and is_isbn13(b["isbn"] or "")]
    assert len(whole) >= 66


def test_every_isbn_has_a_valid_check_digit() -> None:
    assert [b["title"] for b in BOOKS if b["isbn"] is not None and not is_isbn13(b["isbn"])] == []


def test_no_reader_has_a_book_twice() -> None:
    counted = Counter((b["owner_id"], b["isbn"]) for b in BOOKS if b["isbn"])
    assert [key for key, n in counted.items() if n > 1] == []


def test_readers_1_and_2_have_books_in_all_four_statuses() -> None:
    assert {b["owner_id"] for b in BOOKS} == {1, 2}
    for reader in (1, 2):
        assert {b["reading_status"] for b in BOOKS if b["owner_id"] == reader} == STATUSES


@pytest.mark.parametrize(
    "script", ["LATIN", "CYRILLIC", "GREEK", "ARABIC", "DEVANAGARI", "HANGUL", "HIRAGANA", "KATAKANA", "CJK"]
)
def test_titles_come_in_many_scripts(script: str) -> None:
    assert any(unicodedata.name(char, "").startswith(script) for b in BOOKS for char in b["title"])


def test_notes_hold_quotes_commas_newlines_and_emoji() -> None:
    text = "".join(note["content"] for b in BOOKS for note in b["notes"])
    assert {'"', ",", "\n", "'"} <= set(text)
    assert any(ord(char) > 0xFFFF for char in text)
    assert any(len(b["notes"]) > 1 for b in BOOKS)


def test_cells_begin_as_formulas_do_and_some_are_empty() -> None:
    starts = {str(b["description"])[0] for b in BOOKS} | {note["content"][0] for b in BOOKS for note in b["notes"]}
    assert set("=+-@") <= starts
    for column in ("isbn", "rating", "total_pages", "subtitle", "description"):
        assert any(b[column] is None for b in BOOKS), column


def test_pages_and_ratings_are_possible() -> None:
    for b in BOOKS:
        assert b["current_page"] is None or b["total_pages"] is None or 0 <= b["current_page"] <= b["total_pages"]
        assert b["rating"] is None or 0 <= b["rating"] <= 5


def test_install_loads_every_book_and_note_and_does_it_once(database: Database) -> None:
    with database.connect() as conn:
        assert demo.install(conn) == len(BOOKS)
        assert demo.install(conn) == len(BOOKS)
        loaded = conn.execute("select title, isbn, rating, owner_id from books order by id").fetchall()
        assert [row[:2] for row in loaded] == [(b["title"], b["isbn"]) for b in BOOKS]
        notes = conn.execute("select n.content from notes n join books b on b.id = n.book_id order by n.id").fetchall()
        assert [row[0] for row in notes] == [note["content"] for b in BOOKS for note in b["notes"]]


def test_install_leaves_books_that_are_there_alone(database: Database) -> None:
    with database.connect() as conn:
        demo.install(conn)
        conn.execute("truncate books, notes")
        conn.execute("insert into books (title, owner_id) values ('Mine', 1)")
        assert demo.install(conn) == 1


def test_two_installations_at_once_load_it_once(database: Database) -> None:
    counts: list[int] = []

    def install() -> None:
        with database.connect() as conn:
            counts.append(demo.install(conn))

    threads = [threading.Thread(target=install) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [len(BOOKS)] * 4
