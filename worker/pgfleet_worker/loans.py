"""What any process that runs tasks lends them, whatever they are to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from psycopg.pq import TransactionStatus

from pgfleet import db
from pgfleet.settings import Settings

#: Seconds that Postgres has to call a statement off.
CANCEL = 2.0


class Loans:
    """The volume, and connections. The rest of :class:`~pgfleet_worker.task.Surroundings` is each process's own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def export_dir(self) -> Path:
        """The volume that API and workers share."""
        return self._settings.export_dir

    @contextmanager
    def connect(self) -> Iterator[db.Connection]:
        """A connection for one handler, in a transaction; closed at the end of the block.

        Where Postgres went away meanwhile the block raises :class:`~pgfleet.errors.DatabaseAway`. A statement that is still
        under way when something is raised, as ``Cancelled`` is in a process, is cancelled.
        """
        conn = db.connect(self._settings, "pgfleet handler", autocommit=False)
        try:
            yield conn
            if not conn.closed:
                conn.commit()
        except BaseException as error:
            with suppress(psycopg.Error):
                if conn.info.transaction_status == TransactionStatus.ACTIVE:
                    conn.cancel_safe(timeout=CANCEL)
                else:
                    conn.rollback()
            # Not each OperationalError: that a connection has been closed is a fault of who uses it.
            if isinstance(error, psycopg.Error) and conn.broken and db.is_away(error):
                with db.ours():
                    raise
            raise
        finally:
            conn.close()
