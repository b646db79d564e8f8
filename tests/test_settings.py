"""Settings: read once, documented, and never silently wrong."""

from __future__ import annotations

import dataclasses
import fcntl
import json
from pathlib import Path

import pytest

from pgfleet.errors import SettingsError
from pgfleet.settings import FIELDS, FOREIGN, Settings, from_env


def read(tmp_path: Path, **variables: str) -> Settings:
    """from_env() with these variables (without their prefix), away from any up.json of the caller's."""
    return from_env({"PGFLEET_DIR": str(tmp_path), **{f"PGFLEET_{name}": raw for name, raw in variables.items()}})


def test_an_unknown_variable_is_refused_by_name_and_the_known_ones_are_listed() -> None:
    with pytest.raises(SettingsError, match="Unknown setting PGFLEET_DATABSE_URL") as caught:
        from_env({"PGFLEET_DATABSE_URL": "x"})
    assert "PGFLEET_DATABASE_URL" in str(caught.value.detail)
    assert caught.value.hint == "Correct its name or unset PGFLEET_DATABSE_URL."


@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_variables_of_the_test_suite_are_no_errors(tmp_path: Path, name: str) -> None:
    assert from_env({"PGFLEET_DIR": str(tmp_path), name: "anything"}) == Settings(dir=tmp_path)


def test_other_programs_variables_are_none_of_ours(tmp_path: Path) -> None:
    assert from_env({"PGFLEET_DIR": str(tmp_path), "PATH": "/bin", "pgfleet_x": "1"}) == Settings(dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "raw", "expected"),
    [
        ("API_PORT", "http", "a whole number from 0 to 65535"),
        ("API_PORT", "65536", "a whole number from 0 to 65535"),
        ("API_PORT", "80.5", "a whole number from 0 to 65535"),
        ("CONCURRENCY", "0", "a whole number from 1 to 10000"),
        ("LEASE", "soon", "seconds from 1 to 3600"),
        ("LEASE", "0.5", "seconds from 1 to 3600"),
        ("LEASE", "nan", "seconds from 1 to 3600"),
        ("LEASE", "-5", "seconds from 1 to 3600"),
        ("SCHEMA", 'public"; drop', "a schema name"),
        ("SCHEMA", "Public", "a schema name"),
        ("SCHEMA", "s" * 64, "a schema name"),
        ("SCHEMA", "pg_catalog", "a schema name"),
        ("SCHEMA", "information_schema", "a schema name"),
        ("CONCURRENCY", "\u0663", "a whole number"),
        ("GRACE", "\u0663", "seconds from"),
        ("KEEP_SUCCESS", "\u0663d", "a duration"),
        ("LOG_LEVEL", "loud", "one of debug, info, warning, error"),
        ("AUTH_SINGLE_USER", "maybe", "true or false"),
        ("NODE", " ", "a non-empty text"),
        ("CORS_ORIGINS", "books.example.org", "origins such as"),
        ("CORS_ORIGINS", "https://a.example,https://a.example/path", "origins such as"),
        ("CORS_ORIGINS", "https://*.example.org", "origins such as"),
    ],
)
def test_a_malformed_value_is_refused_with_what_was_expected(
    tmp_path: Path, name: str, raw: str, expected: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, **{name: raw})
    assert caught.value.message.startswith(f"Setting PGFLEET_{name} is malformed: expected {expected}")
    assert repr(raw) in caught.value.message


@pytest.mark.parametrize("name", ["AUTH_SECRET_KEY", "DATABASE_URL"])
def test_a_secret_is_never_repeated_in_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, **{name: "  "})
    assert "'  '" not in str(caught.value)


def test_each_kind_of_value_is_read(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        DATABASE_URL="host=db",
        EXPORT_DIR="/srv/exports",
        CORS_ORIGINS="https://a.example, https://b.example,",
        AUTH_SINGLE_USER="Yes",
        API_PORT="8080",
        POLL="0.5",
        SCHEMA="fleet_2",
    )
    assert settings == Settings(
        dir=tmp_path,
        database_url="host=db",
        export_dir=Path("/srv/exports"),
        cors_origins=("https://a.example", "https://b.example"),
        auth_single_user=True,
        api_port=8080,
        poll=0.5,
        schema="fleet_2",
    )


def test_an_empty_variable_means_its_default(tmp_path: Path) -> None:
    assert read(tmp_path, API_PORT="", SCHEMA="") == Settings(dir=tmp_path)


def test_what_the_command_line_says_wins_and_what_it_leaves_out_does_not(tmp_path: Path) -> None:
    env = {"PGFLEET_DIR": str(tmp_path), "PGFLEET_CONCURRENCY": "3", "PGFLEET_NICKNAME": "walter"}
    settings = from_env(env, concurrency=5, nickname=None)
    assert (settings.concurrency, settings.nickname) == (5, "walter")


def test_a_heartbeat_of_more_than_a_third_of_the_lease_is_refused(tmp_path: Path) -> None:
    assert read(tmp_path, LEASE="15", HEARTBEAT="5").heartbeat == 5
    with pytest.raises(SettingsError, match=r"PGFLEET_HEARTBEAT is 5.1 s with a lease of 15 s"):
        read(tmp_path, LEASE="15", HEARTBEAT="5.1")


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().schema = "other"  # type: ignore[misc]


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_says_what_it_means_in_one_sentence(name: str) -> None:
    doc = FIELDS[name].metadata["doc"]
    assert doc[0].isupper() or doc.split()[0].endswith(":") or doc[:5] == "HS256"
    assert doc.endswith(".")


def test_without_a_database_the_error_names_both_ways_out() -> None:
    with pytest.raises(SettingsError, match="No database is configured") as caught:
        Settings().require_database()
    assert "PGFLEET_DATABASE_URL" in str(caught.value.hint)
    assert "run.py up" in str(caught.value.hint)


# A running `pgfleet up`

UP = {"database_url": "host=up", "export_dir": "/up/exports", "auth_secret_key": "up's", "api_url": "http://x"}


def test_a_running_set_up_is_found_where_nothing_else_is_configured(tmp_path: Path) -> None:
    (tmp_path / "up.json").write_text(json.dumps(UP))
    settings = read(tmp_path)
    assert (settings.database_url, settings.export_dir) == ("host=up", Path("/up/exports"))
    assert settings.auth_secret_key == "up's"


def test_a_configured_database_is_preferred_to_a_running_set_up(tmp_path: Path) -> None:
    (tmp_path / "up.json").write_text(json.dumps(UP))
    settings = read(tmp_path, DATABASE_URL="host=mine")
    assert (settings.database_url, settings.auth_secret_key) == ("host=mine", "")


def test_what_is_configured_wins_over_a_running_set_up_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "up.json").write_text(json.dumps(UP))
    settings = read(tmp_path, AUTH_SECRET_KEY="mine")
    assert (settings.database_url, settings.auth_secret_key) == ("host=up", "mine")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"database_url": "x"}'])
def test_a_broken_up_json_is_an_error_that_names_the_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "up.json").write_text(content)
    with pytest.raises(SettingsError, match=r"up\.json (can't be read|is not what)") as caught:
        read(tmp_path)
    assert "pgfleet up" in str(caught.value.hint)


def test_what_a_set_up_that_was_killed_left_behind_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "up.json").write_text(json.dumps(UP))
    with (tmp_path / "up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert read(tmp_path).database_url == "host=up"
    assert read(tmp_path).database_url == ""


@pytest.mark.parametrize("given", ["30", "0.5", "1000"])
def test_how_long_tasks_are_kept_is_refused_without_its_unit(tmp_path: Path, given: str) -> None:
    with pytest.raises(SettingsError, match="a duration with its unit"):
        read(tmp_path, KEEP_SUCCESS=given)
    assert (read(tmp_path, KEEP_SUCCESS="0").keep_success, read(tmp_path, KEEP_SUCCESS="30s").keep_success) == (0, 30)


@pytest.mark.parametrize("given", ["notaurl", "file:///etc/passwd", "https://", "ftp://x/keys"])
def test_a_url_to_fetch_keys_from_is_refused_where_it_is_none(tmp_path: Path, given: str) -> None:
    with pytest.raises(SettingsError, match="PGFLEET_AUTH_JWKS_URL is malformed"):
        read(tmp_path, AUTH_JWKS_URL=given)
    assert read(tmp_path, AUTH_JWKS_URL="http://127.0.0.1:9/k").auth_jwks_url == "http://127.0.0.1:9/k"


def test_a_nickname_with_a_colon_is_refused_wherever_it_comes_from() -> None:
    for given in ({"env": {"PGFLEET_NICKNAME": "a:b"}}, {"env": {}, "nickname": "a:b"}):
        with pytest.raises(SettingsError, match="without colons"):
            from_env(**given)  # type: ignore[arg-type]
