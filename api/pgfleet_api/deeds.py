"""What somebody does over HTTP, in the log: at info, with the user's id and the request's."""

from __future__ import annotations

from typing import Any

from flask import g

from pgfleet import log
from pgfleet.tokens import User


def tell(event: str, user: User | None, **about: Any) -> None:
    """Log ``event``; ``user`` is None where no token was asked for."""
    log.get().info(event, **about, user=None if user is None else user.id, request_id=g.request_id)
