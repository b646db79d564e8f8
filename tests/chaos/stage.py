"""What the soak plays on: a durable Postgres that can be killed, a database with the demo library and the audit."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from pgfleet import demo, migrate
from pgfleet.settings import Settings
from tests.support.server import embedded

HERE = Path(__file__).parent
COMPLAINT = re.compile(r"deadlock detected|PANIC|ERROR:.*(violates|corrupt|cache lookup failed)")
#: Tables written to files where a soak failed.
KEPT = (
    "tasks", "task_attempts", "task_types", "workers", "worker_history", "exports", "schedules", "triggers", "run_ends",
    "held_events", "soak.audit",
)  # fmt: skip


@dataclass
class Stage:
    """A running Postgres, the soak's folder, and the times when Postgres was away."""

    folder: Path
    outages: list[tuple[float, float]] = field(default_factory=list)
    _down_since: float | None = None

    def __post_init__(self) -> None:
        bin_dir = os.environ.get("PGFLEET_TEST_PG_BIN")
        self.postgres, self._remove = embedded(Path(bin_dir) if bin_dir else None, {"max_connections": "400"})
        self.url: str = self.postgres.url()
        self.export_dir = self.folder / "exports"
        self.logs = self.folder / "logs"
        for made in (self.export_dir, self.logs):
            made.mkdir(parents=True)
        self.ledger = self.folder / "handlers.ledger"
        self.ledger.touch()
        migrate.migrate(Settings(database_url=self.url))
        with self.connect() as conn:
            demo.install(conn)
            conn.execute((HERE / "audit.sql").read_text(encoding="utf-8").encode())

    def connect(self, name: str = "soak") -> psycopg.Connection[Any]:
        """A connection to the database itself, past all proxies."""
        return psycopg.connect(self.url, autocommit=True, application_name=name, connect_timeout=10)

    @property
    def is_down(self) -> bool:
        return self._down_since is not None

    def kill_postgres(self) -> None:
        """SIGKILL to the postmaster."""
        self._down_since = time.time()
        os.kill(self.postgres.pid, signal.SIGKILL)

    def start_postgres(self) -> None:
        """Bring a killed Postgres back; returns when it has recovered."""
        assert self._down_since is not None
        self.postgres.stop()
        self.postgres.start()
        self.outages.append((self._down_since, time.time()))
        self._down_since = None

    def complaints(self) -> list[str]:
        """What must not stand in Postgres's log, whoever tries again afterwards."""
        found = []
        for path in (self.postgres.log_path.with_name(self.postgres.log_path.name + ".1"), self.postgres.log_path):
            if path.exists():
                with path.open(encoding="utf-8", errors="replace") as lines:
                    found += [line.strip() for line in lines if COMPLAINT.search(line)]
        return found

    def keep(self) -> None:
        """Write the tables that the account is about to files, for study."""
        folder = self.folder / "database"
        folder.mkdir(exist_ok=True)
        shutil.copy(self.postgres.log_path, folder)
        with self.connect() as conn, conn.cursor() as cursor:
            for table in KEPT:
                copy = f"copy (select * from {table}) to stdout (format csv, header)".encode()
                with (folder / f"{table}.csv").open("wb") as file, cursor.copy(copy) as rows:
                    for row in rows:
                        file.write(row)

    def close(self) -> None:
        self._remove()
