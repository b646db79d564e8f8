"""The worker's own threads, told apart from those that a handler starts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Part(threading.Thread):
    """A thread that the worker can't do without: where it raises, the worker ends (``worker.broken``)."""

    def __init__(self, target: Callable[..., Any], name: str, args: tuple[Any, ...] = ()) -> None:
        super().__init__(target=target, name=name, args=args, daemon=True)
