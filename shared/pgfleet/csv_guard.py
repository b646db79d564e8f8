"""The formula guard of exported CSV cells, and how an import takes it off.

A spreadsheet computes a cell that begins with ``=``, ``+``, ``-`` or ``@``, and may with a tab, a carriage return or a
line feed; OWASP (https://owasp.org/www-community/attacks/CSV_Injection) advises an apostrophe before it. The full-width
``＝ ＋ － ＠`` are guarded too: East Asian input methods write them, and spreadsheets fold them into the others.

The rule: a text whose first character *after any apostrophes* is one of these gets one more apostrophe. So
``=1+1`` becomes ``'=1+1``, and a text that already was ``'=1+1`` becomes ``''=1+1``; ``'Salem's Lot`` stays as it is.
The same look tells an import whether to take one apostrophe off, hence the guard is reversible. (Doubling every leading
apostrophe would be simpler to say, but would spell a real title ``''Salem's Lot``.)

Exports are guarded in SQL (``sql/queries/export_books.sql``); a test holds the two together. Numbers need no guard, and
the notes cell begins with ``[``.

What no guard in a comma-separated file can prevent: a spreadsheet told to split at semicolons makes cells of its own.
"""

from __future__ import annotations

#: The first characters that make a spreadsheet compute.
FORMULA_STARTS = frozenset("=+-@＝＋－＠\t\r\n")


def is_formula(text: str) -> bool:
    """Whether ``text``, any apostrophes before it aside, begins as a formula does."""
    return text.lstrip("'")[:1] in FORMULA_STARTS


def guard(text: str) -> str:
    """``text`` as the export writes it."""
    return f"'{text}" if is_formula(text) else text


def unguard(cell: str) -> str:
    """The text that an exported ``cell`` (CSV quoting already undone) stands for: the inverse of :func:`guard`.

    A cell no export has written, such as a bare ``=1+1`` from elsewhere, is returned as it is.
    """
    return cell[1:] if cell.startswith("'") and is_formula(cell) else cell
