"""Settings: the ``PGFLEET_*`` variables, read once into a frozen object.

Every variable is documented here, in the field that holds it; ``pgfleet settings`` prints them all, the README's table
is a choice of them. An unknown or malformed variable is refused by name: a typing error can't be a silent default.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgfleet.errors import SettingsError

PREFIX = "PGFLEET_"

#: Variables that other parts of the project read: run.py and the test suite. Known, so not refused.
FOREIGN = frozenset({"PGFLEET_TEST_DB", "PGFLEET_TEST_DATABASE_URL", "PGFLEET_TEST_PG_BIN"})


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("a non-empty text")
    return value


def _nickname(value: str) -> str:
    if not re.fullmatch(r"[^\s:]{1,100}", value):
        raise ValueError("a name without colons or spaces, at most 100 characters")
    return value


def _schema(value: str) -> str:
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", value) or value.startswith("pg_") or value == "information_schema":
        raise ValueError(
            "a schema name: lower-case letters, digits and underscores, at most 63, not one of Postgres's own"
        )
    return value


def _flag(value: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if value.strip().lower() not in known:
        raise ValueError("true or false")
    return known[value.strip().lower()]


def _list(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _origins(value: str) -> tuple[str, ...]:
    origins = _list(value)
    for origin in origins:
        if not re.fullmatch(r"\*|[A-Za-z][A-Za-z0-9+.-]*://[^\s/*?#@]+/?", origin):
            raise ValueError(
                "origins such as https://books.example.org:8443, without a path, separated by commas; or *"
            )
    return tuple(origin.lower() for origin in origins)


def _int(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", value.strip()) or not low <= int(value) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(value)

    return parse


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(value: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", value.strip()) or not low <= float(value) <= high:
            raise ValueError(f"seconds from {low:g} to {high:g}")
        return float(value)

    return parse


class Duration(float):
    """Seconds, shown as people write them: ``30d``."""

    def __str__(self) -> str:
        for unit, seconds in reversed(UNITS.items()):
            if self and self % seconds == 0:
                return f"{self / seconds:.0f}{unit}"
        return f"{float(self):g}"


#: Seconds of each unit, the shortest first.
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def duration(value: str) -> Duration:
    """``90s``, ``15m``, ``12h``, ``30d``, or bare seconds. Raises ``ValueError``, its text what was expected."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]+)?)([smhd]?)", value.strip())
    seconds = float(match[1]) * UNITS[match[2] or "s"] if match else -1
    if not 0 <= seconds <= MOST_SECONDS:
        raise ValueError("a duration such as 90s, 12h or 30d, at most 36500d")
    return Duration(seconds)


MOST_SECONDS = 36_500 * UNITS["d"]


def _term(value: str) -> Duration:
    """A duration with its unit: whoever leaves out the d of 30d would lose all that is older than 30 seconds."""
    if re.fullmatch(r"[0-9.]+", value.strip()) and value.strip("0. "):
        raise ValueError("a duration with its unit, such as 90s, 12h or 30d, or 0 for ever")
    return duration(value)


def _jwks_url(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#@]+(/\S*)?", value):
        raise ValueError("a URL such as https://id.example.org/jwks.json")
    return value


def _choice(*values: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in values:
            raise ValueError(f"one of {', '.join(values)}")
        return value

    return parse


def _field(default: Any, parse: Callable[[str], Any], doc: str) -> Any:
    metadata = {"parse": parse, "doc": doc}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What this process was told. Built by :func:`from_env`; in tests directly."""

    database_url: str = _field("", _text, "Postgres, as a libpq URL or key=value string. No default.")
    schema: str = _field("public", _schema, "Schema that holds pgfleet's tables; created by migrate where missing.")
    dir: Path = _field(Path(".pgfleet"), Path, "Folder of the embedded set-up: its Postgres, exports and up.json.")
    export_dir: Path = _field(Path("volumes/exports"), Path, "The volume that API and workers share.")
    log_level: str = _field("info", _choice("debug", "info", "warning", "error"), "Least severe log event written.")
    log_format: str = _field("auto", _choice("auto", "json", "console"), "auto: console on a terminal, else JSON.")
    database_timeout: float = _field(5.0, _seconds(0.1, 600), "Seconds to wait for a connection to Postgres.")
    answer_timeout: float = _field(
        15.0, _seconds(0.2, 600), "Seconds to wait for an answer of Postgres; then the connection counts as dead."
    )

    auth_secret_key: str = _field("", _text, "HS256 secret of the bearer tokens (BookLogr's AUTH_SECRET_KEY).")
    auth_jwks_url: str = _field("", _jwks_url, "JWKS URL for RS256/ES256 tokens, instead of the secret.")
    auth_single_user: bool = _field(False, _flag, "BookLogr's single-user mode: no token needed, everybody is user 1.")
    cors_origins: tuple[str, ...] = _field((), _origins, "Origins, comma-separated, whose browsers may call the API.")
    api_host: str = _field("127.0.0.1", _text, "Address the API listens on.")
    api_port: int = _field(8000, _int(0, 65535), "Port the API listens on.")
    api_threads: int = _field(16, _int(1, 256), "Requests the API answers at once; also its most Postgres connections.")
    trigger_api: str = _field(
        "admins",
        _choice("admins", "loopback", "loopback-admins"),
        "Whom /api/v1/backgroundtasks serves: admins; loopback, any process of this machine, without a token; or both, "
        "admins of this machine.",
    )
    api_max_body: int = _field(1_048_576, _int(1024, 1_073_741_824), "Largest request body, in bytes.")

    nickname: str = _field("", _nickname, "The worker's name before the colon in nickname:UUID.")
    node: str = _field(socket.gethostname, _text, "This server's name; several workers may share it.")
    types: tuple[str, ...] = _field(
        (), _list, "Task types this worker takes, comma-separated; all it has handlers for."
    )
    only_targeted: bool = _field(False, _flag, "Take only tasks that name this node (a task's `node`).")
    concurrency: int = _field(10, _int(1, 10_000), "Tasks a worker runs at once.")
    handlers: tuple[str, ...] = _field((), _list, "Modules with handlers to load, comma-separated.")
    lease: float = _field(20.0, _seconds(1, 3600), "Seconds without a heartbeat after which a worker counts as lost.")
    heartbeat: float = _field(5.0, _seconds(0.1, 1200), "Seconds between heartbeats; at most a third of the lease.")
    poll: float = _field(
        5.0, _seconds(0.05, 3600), "Seconds between looks at the table that no notification asked for."
    )
    grace: float = _field(20.0, _seconds(0, 86_400), "Seconds a stopping worker gives its running tasks.")
    schedules: bool = _field(
        True, _flag, "False: this worker fires no schedules, and leaves the fleet's own, purge and sweep, to others."
    )

    keep_success: float = _field(
        Duration(30 * 86_400), _term, "How long a task that succeeded is kept, with its files; 0: for ever."
    )
    keep_failure: float = _field(Duration(90 * 86_400), _term, "How long a task that failed is kept; 0: for ever.")
    keep_crashed: float = _field(Duration(90 * 86_400), _term, "How long a crashed task is kept; 0: for ever.")
    keep_cancelled: float = _field(Duration(30 * 86_400), _term, "How long a cancelled task is kept; 0: for ever.")
    cancel_grace: float = _field(
        10.0, _seconds(0, 86_400), "Seconds a task that was called off has to end in, before it is killed or abandoned."
    )

    def require_database(self) -> str:
        """The database's URL; :class:`SettingsError` where none is set."""
        if not self.database_url:
            raise SettingsError(
                "No database is configured.",
                hint="Set PGFLEET_DATABASE_URL, or run `python3 run.py up` here: it brings a Postgres of its own.",
            )
        return self.database_url


FIELDS = {PREFIX + field.name.upper(): field for field in dataclasses.fields(Settings)}


def from_env(env: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Read the settings from ``env`` (default: this process's environment); ``overrides`` that are not None win.

    Where neither names a database, a running ``pgfleet up`` is found through ``<dir>/up.json``. One that was killed leaves that
    file behind: what it says is passed over.
    Raises :class:`SettingsError` for a variable that is unknown or malformed.
    """
    env = os.environ if env is None else env
    values: dict[str, Any] = {}
    for name, raw in env.items():
        if not name.startswith(PREFIX) or name in FOREIGN:
            continue
        field = FIELDS.get(name)
        if field is None:
            raise SettingsError(
                f"Unknown setting {name}.",
                detail=f"Known are: {', '.join(sorted(FIELDS))}.",
                hint=f"Correct its name or unset {name}.",
            )
        if raw == "":
            continue
        try:
            values[field.name] = field.metadata["parse"](raw)
        except ValueError as error:
            shown = "it" if "SECRET" in name or name == "PGFLEET_DATABASE_URL" else repr(raw)
            raise SettingsError(f"Setting {name} is malformed: expected {error}, {shown} is not.") from None
    for key, value in overrides.items():
        if isinstance(value, str):  # from a command's option: as particular as the variable
            try:
                value = FIELDS[PREFIX + key.upper()].metadata["parse"](value)
            except ValueError as error:
                raise SettingsError(f"{key} is malformed: expected {error}, {value!r} is not.") from None
        if value is not None:
            values[key] = value
    settings = Settings(**values)
    if settings.heartbeat > settings.lease / 3:
        raise SettingsError(
            f"PGFLEET_HEARTBEAT is {settings.heartbeat:g} s with a lease of {settings.lease:g} s.",
            hint="Let the heartbeat be at most a third of PGFLEET_LEASE, so that one late beat loses nothing.",
        )
    return settings if settings.database_url else _from_up_json(settings, values)


def _from_up_json(settings: Settings, explicit: Mapping[str, Any]) -> Settings:
    path = settings.dir / "up.json"
    if _is_left_behind(path.with_name("up.lock")):
        return settings
    try:
        up = json.loads(path.read_text(encoding="utf-8"))
        found: dict[str, Any] = {"database_url": str(up["database_url"]), "export_dir": Path(up["export_dir"])}
        if "auth_secret_key" in up:
            found["auth_secret_key"] = str(up["auth_secret_key"])
    except FileNotFoundError:
        return settings
    except (KeyError, TypeError):
        raise SettingsError(f"{path} is not what `pgfleet up` writes.", hint=_REMOVE) from None
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} can't be read: {error!r}.", hint=_REMOVE) from None
    return dataclasses.replace(settings, **{key: value for key, value in found.items() if key not in explicit})


_REMOVE = "Remove it and run `pgfleet up` again."


def _is_left_behind(lock: Path) -> bool:
    """Is the lock there that a running ``up`` holds, and nobody has it?"""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
