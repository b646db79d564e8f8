"""Structured logs: one event a line on stderr, JSON for machines, coloured text on a terminal.

An event is named ``noun.verb`` after the transition it tells of (``task.failed``, ``worker.registered``); its stable
fields are documented in ``worker/README.md`` and ``api/README.md``. Below the configured level a call does nothing.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any, TextIO, cast

# structlog imports rich where it is installed, for tracebacks in colour: 5 of a worker's 44 MB.
_rich = sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
import structlog  # noqa: E402

if _rich is None:
    del sys.modules["rich"]

from pgfleet.settings import Settings  # noqa: E402


class _Tolerant:
    """A text stream on which a failed write (its reader gone, its disk full) is not the writer's end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


Logger = structlog.typing.FilteringBoundLogger


def configure(settings: Settings) -> None:
    """Set structlog up for this process; for its start, before the first event."""
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer()
        if console
        else structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if console else [structlog.processors.format_exc_info]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.log_level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Tolerant(sys.stderr))),
        cache_logger_on_first_use=True,
    )


def get(**bound: Any) -> Logger:
    """A logger with ``bound`` in each of its events."""
    logger: Logger = structlog.get_logger(**bound)
    return logger
