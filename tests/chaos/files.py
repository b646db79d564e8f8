"""An export as its reader finds it."""

from __future__ import annotations

import hashlib
from pathlib import Path


def torn(folder: Path, filename: str, sha256: str, size: int) -> str | None:
    """What is wrong with a file that readers may download; None where nothing is."""
    try:
        content = (folder / filename).read_bytes()
    except FileNotFoundError:
        return f"{filename} is not there"
    if len(content) != size or hashlib.sha256(content).hexdigest() != sha256:
        return f"{filename} has {len(content)} bytes, its row says {size}; or another sha256"
    return None
