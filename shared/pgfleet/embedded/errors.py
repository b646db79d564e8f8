"""The one error of the embedded Postgres."""

from __future__ import annotations

from pgfleet.errors import PgfleetError


class EmbeddedPostgresError(PgfleetError):
    """The embedded Postgres could not be found, made, started or stopped."""
