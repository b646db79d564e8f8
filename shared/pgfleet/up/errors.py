"""The one error of ``pgfleet up``."""

from __future__ import annotations

from pgfleet.errors import PgfleetError


class UpError(PgfleetError):
    """The fleet could not be started, or one of its processes ended."""
