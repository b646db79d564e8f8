"""Migrations: numbered, append-only files in ``sql/migrations``, then every function in ``sql/functions``.

One advisory lock for each schema lets any number of processes start at once: the first migrates, the others find it done.
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg.sql import SQL, Identifier

from pgfleet import db, sql
from pgfleet.errors import SchemaError
from pgfleet.settings import Settings

FUNCTIONS = "functions"

#: Seconds that a migration waits for a lock, seconds until it tries again, and for how many it goes on trying.
PATIENCE = 1.0
BETWEEN = 2.0
MOST_TRYING = 120.0


@dataclass(frozen=True)
class Step:
    """One file of migrations, or all functions together (number 0)."""

    number: int
    name: str
    checksum: str


@dataclass(frozen=True)
class Plan:
    """What the schema still needs. ``others``: its functions are there, and are those of another version."""

    missing: tuple[Step, ...]
    others: bool = False

    def __bool__(self) -> bool:
        return bool(self.missing)


def migrate(settings: Settings) -> Plan:
    """Bring the schema up to date; answers what was done (nothing: it was up to date already).

    Raises :class:`SchemaError`, and changes nothing, where the schema is newer than this version, where a file that was
    applied has been edited since, where another application's tables stand in our schema, or where the database's encoding
    has no place for all characters. Where others read for long what is to change it is asked for again and again.
    """
    # The role's limits are for its requests; ours are below.
    with db.connect(settings, "pgfleet migrate", statement_timeout="0", lock_timeout="0") as conn:
        _require_encoding(conn)
        q = sql.queries("migrate")
        conn.execute(q["lock"], {"schema": settings.schema})
        plan = _plan(conn, settings)
        if not plan:
            return plan
        with conn.transaction():
            if conn.execute(q["schema_stands"], {"schema": settings.schema}).fetchone() == (False,):
                # Asked for only where it is missing: it takes a right that the owner of a ready schema may lack.
                conn.execute(SQL("create schema if not exists {}").format(Identifier(settings.schema)))
            conn.execute(q["bookkeeping"])
        for step in plan.missing:
            _apply_when_free(conn, step, settings)
        return plan


def _apply_when_free(conn: db.Connection, step: Step, settings: Settings) -> None:
    """Apply it. It waits for a lock no longer than the fleet can do without the table: whoever comes after waits behind it."""
    until = time.monotonic() + MOST_TRYING
    while True:
        try:
            return _apply(conn, step, settings)
        except psycopg.errors.LockNotAvailable as error:
            if time.monotonic() > until:
                raise SchemaError(
                    f"Others hold what {step.name} changes, for more than {MOST_TRYING:g} s: {error.diag.message_primary}.",
                    detail="Nothing of it was changed.",
                    hint="Look for old transactions (pg_stat_activity.xact_start), such as a pg_dump's, and run it again.",
                ) from error
            time.sleep(BETWEEN)


def _apply(conn: db.Connection, step: Step, settings: Settings) -> None:
    q = sql.queries("migrate")
    with conn.transaction(), db.ours():
        conn.execute(q["patience"], {"milliseconds": str(round(PATIENCE * 1000))})
        if step.number:
            # What a migration names without a schema must not be found in another one, where it is somebody else's.
            conn.execute(q["ours_alone"], {"schema": settings.schema})
            conn.execute(sql.text(f"migrations/{step.name}.sql"))
        else:
            for path in _functions():
                conn.execute(sql.text(f"{FUNCTIONS}/{path.name}"))
            conn.execute(q["pin_search_path"])
        conn.execute(q["record"], {"number": step.number, "name": step.name, "checksum": step.checksum})


def check(settings: Settings) -> Plan:
    """What :func:`migrate` would do; changes nothing, raises as it does."""
    with db.connect(settings, "pgfleet migrate --check") as conn:
        _require_encoding(conn)
        return _plan(conn, settings)


def known() -> list[Step]:
    """The steps this version knows: its migrations by number, then the functions."""
    steps = []
    for path in sorted((sql.root() / "migrations").glob("*.sql")):
        match = re.fullmatch(r"(\d{4})_[a-z0-9_]+", path.stem)
        if match is None:
            raise SchemaError(f"{path.name} is no migration's name.", hint="Name it 0001_what_it_does.sql.")
        steps.append(Step(int(match[1]), path.stem, _checksum(path.read_bytes())))
    functions = b"".join(path.read_bytes() for path in _functions())
    # With the migrations in it: a new migration may have dropped a function that has not changed.
    return [*steps, Step(0, FUNCTIONS, _checksum(functions + b"".join(s.checksum.encode() for s in steps)))]


def _functions() -> list[Path]:
    """The file of each function, which is called as the function is."""
    return sorted((sql.root() / FUNCTIONS).glob("*.sql"))


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _require_encoding(conn: db.Connection) -> None:
    encoding = conn.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise SchemaError(
            f"The database's encoding is {encoding}; pgfleet needs UTF8, which has all characters of titles and payloads.",
            detail="Nothing was changed.",
            hint="Make one with: create database NAME encoding 'UTF8' template template0. pg_dump and pg_restore move data.",
        )


def _plan(conn: db.Connection, settings: Settings, *, newer_too: bool = False) -> Plan:
    q = sql.queries("migrate")
    standing = conn.execute(q["standing"], {"schema": settings.schema}).fetchone()
    assert standing is not None  # noqa: S101 - an aggregate always answers one row
    ours, foreign, usable, role = standing
    if not usable:  # Postgres would pass over it, and all be done in the next one of the search_path
        raise SchemaError(
            f"Role {role} may not use schema {settings.schema}.",
            detail="Nothing was changed.",
            hint=f"As its owner: grant usage on schema {settings.schema} to {role}; sql/README.md has what else it needs.",
        )
    if not ours and foreign:
        raise SchemaError(
            f"Schema {settings.schema} holds tables that are not pgfleet's: {', '.join(foreign)}.",
            detail="Nothing was changed.",
            hint="Give pgfleet a schema of its own: set PGFLEET_SCHEMA=pgfleet, for API, workers and migrate alike.",
        )
    applied = {row[0]: Step(*row) for row in conn.execute(q["applied"])} if ours else {}
    steps = known()
    newer = sorted(set(applied) - {step.number for step in steps})
    if newer and not newer_too:
        raise SchemaError(
            f"The schema is newer than this pgfleet: it has migration {newer[-1]:04}, this version ends at "
            f"{max(step.number for step in steps):04}.",
            detail="Nothing was changed.",
            hint="Upgrade pgfleet here to the version that migrated the database.",
        )
    for step in steps:
        if step.number and step.number in applied and applied[step.number].checksum != step.checksum:
            raise SchemaError(
                f"Migration {step.name} was edited after it had been applied.",
                detail=f"Applied with checksum {applied[step.number].checksum[:12]}, the file has {step.checksum[:12]}.",
                hint="Restore the file; put the change into a new migration.",
            )
    lacking = {step.number for step in steps if step.number not in applied}
    missing = [s for s in steps if s.number in lacking or applied[s.number].checksum != s.checksum]
    if not missing:
        names = [path.stem for path in _functions()]
        if conn.execute(q["gone"], {"schema": settings.schema, "names": names}).fetchone():
            return Plan((steps[-1],))
    return Plan(tuple(missing), others=bool(missing) and not lacking)


def require_current(conn: db.Connection, settings: Settings) -> None:
    """Raise :class:`SchemaError` unless every migration has been applied. For the start of API and workers."""
    plan = _plan(conn, settings)
    if plan.others:
        raise SchemaError(
            "The schema's functions are those of another version of pgfleet.",
            detail="Nothing was changed. Older and newer ones can't be told apart.",
            hint="Upgrade pgfleet here, or run `pgfleet migrate` first if it is the newer one, or the one to go back to.",
        )
    _require(plan)


def require_usable(conn: db.Connection, settings: Settings) -> None:
    """As :func:`require_current`, for a process that has begun: what another version has done since is no reason to end."""
    plan = _plan(conn, settings, newer_too=True)
    if not plan.others:
        _require(plan)


def _require(plan: Plan) -> None:
    if plan:
        raise SchemaError(
            f"The schema lacks {', '.join(step.name for step in plan.missing)}.",
            hint="Run `pgfleet migrate` first.",
        )
