"""The thin Flask API: inserts tasks, answers polls, hands out files.

``create_app(settings)`` makes the WSGI application; ``pgfleet api`` serves it (see ``command.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgfleet_api.app import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> Any:
    """``create_app``, imported when asked for: the CLI loads this package for its command, and needs no Flask then."""
    if name == "create_app":
        from pgfleet_api.app import create_app

        return create_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
