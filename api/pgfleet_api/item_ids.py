"""Task ids as UUIDs, and back, for the cluster scheduler API: of version 8 (RFC 9562), which is for forms of one's own.

48 bits spell ``pgflee``, and the id stands in the last 64, around the two bits that every UUID has there: 42 is
``7067666c-6565-8000-8000-00000000002a``. What is kept in memory has no number: its UUID is version 5 of worker and name.
A schedule's is of version 8, too, made of its name's SHA-256; it stands in the schedule's row.
"""

from __future__ import annotations

import re
import uuid

_MARK = int.from_bytes(b"pgflee", "big") << 80
_FIXED = _MARK | 8 << 76 | 2 << 62
_LOW = (1 << 62) - 1
_FORM = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
_MEMORY = uuid.UUID("7067666c-6565-5000-8000-6d656d6f7279")


def of_task(id: int) -> str:
    """The UUID that stands for a task's id, any bigint."""
    bits = id & (1 << 64) - 1
    return str(uuid.UUID(int=_FIXED | bits >> 62 << 64 | bits & _LOW))


def is_uuid(text: str) -> bool:
    """Is it one in the usual form, of whatever version?"""
    return _FORM.fullmatch(text) is not None


def task_of(text: str) -> int | None:
    """The task's id that a UUID stands for; None where it is none of ours, or no UUID."""
    if not is_uuid(text):
        return None
    number = uuid.UUID(text).int
    bits = (number >> 64 & 3) << 62 | number & _LOW
    id = bits - (1 << 64) if bits >> 63 else bits
    return id if of_task(id) == text.lower() else None


def of_memory(worker: str, name: str) -> str:
    """The UUID that stands for what a worker keeps in memory under that name."""
    return str(uuid.uuid5(_MEMORY, f"{worker}\n{name}"))
