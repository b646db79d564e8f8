"""The ``pgfleet`` command: what it prints, where, and with which exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pgfleet import __version__, tokens
from pgfleet.cli import main as cli
from pgfleet.settings import FIELDS, Settings
from tests.support.cli import Run, answered
from tests.support.fleet import WORKER, register


@pytest.fixture
def bare(tmp_path: Path) -> Run:
    """As ``run``, but nothing is configured."""

    def bare(*arguments: str, **variables: str) -> Result:
        env = {"PGFLEET_DIR": str(tmp_path), **{f"PGFLEET_{name}": value for name, value in variables.items()}}
        return CliRunner().invoke(cli.main, arguments, env=env, prog_name="pgfleet")

    return bare


# The command itself


def test_help_lists_every_command_with_what_it_does(bare: Run) -> None:
    result = bare("--help")
    assert result.exit_code == 0
    for name in ("api", "events", "migrate", "schedules", "settings", "tasks", "token", "worker", "workers"):
        assert f"\n  {name} " in result.stdout


def test_the_version_is_the_packages(bare: Run) -> None:
    assert bare("--version").stdout == f"pgfleet {__version__}\n"


def test_a_command_loads_only_what_it_needs() -> None:
    code = (
        "import sys; from pgfleet.cli.main import main; main(['migrate', '--help'], standalone_mode=False);"
        "print([m for m in ('flask', 'rich', 'pydantic', 'jwt', 'pgfleet_api', 'pgfleet_worker') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("[]\n"), done


def test_a_command_whose_packages_are_left_out_says_what_to_install(bare: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.OWN, "api", EntryPoint("api", "nonesuch.command:api", cli.GROUP))
    assert "(not installed: nonesuch is missing)" in bare("--help").stdout
    result = bare("api", "--port", "1")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: `pgfleet api` needs the package nonesuch, which is not installed.\n"
        'Hint: Install it: pip install "pgfleet[api]".\n'
    )


def test_a_fault_in_a_commands_own_imports_is_not_taken_for_a_package_left_out(
    bare: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pgfleet_faulty.py").write_text("import pgfleet.nonesuch\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(cli.OWN, "api", EntryPoint("api", "pgfleet_faulty:api", cli.GROUP))
    assert isinstance(bare("api").exception, ModuleNotFoundError)


def test_it_runs_as_a_module_and_leaves_no_traceback(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "PGFLEET_DIR": str(tmp_path)}
    argv = [sys.executable, "-m", "pgfleet.cli.main", "tasks", "list"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "Error: No database is configured.\n"
        "Hint: Set PGFLEET_DATABASE_URL, or run `python3 run.py up` here: it brings a Postgres of its own.\n"
    )


def test_a_ctrl_c_that_came_amid_the_imports_ends_it_in_a_word(tmp_path: Path) -> None:
    interrupted = (
        "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'pgfleet.cli.main', 'settings'])"
    )
    env = {"PATH": os.environ["PATH"], "PGFLEET_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", interrupted], env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (1, "", "Aborted!")


@pytest.mark.parametrize(
    ("variables", "arguments", "code", "said"),
    [
        ({}, ["nonesuch"], 2, "No such command 'nonesuch'"),
        ({}, ["tasks", "list", "--status", "done"], 2, "'done' is not one of 'waiting', 'fresh'"),
        ({}, ["tasks", "list", "--sort", "data"], 2, "'data': expected one of id, type"),
        ({}, ["tasks", "show", "9223372036854775808"], 2, "is not in the range"),
        ({}, ["tasks", "create", "job", "--user", "1", "--run-at", "soon"], 2, "'soon' is no time"),
        ({}, ["token"], 2, "Missing option '--user'"),
        ({"PROT": "1"}, ["tasks", "list"], 1, "Error: Unknown setting PGFLEET_PROT."),
        ({"DATABASE_URL": "host=/nonesuch"}, ["tasks", "list"], 1, "Error: The database is away."),
        ({"DATABASE_URL": "postgresql://u:hidden@%%"}, ["migrate"], 1, "Error: PGFLEET_DATABASE_URL is malformed."),
        ({"DATABASE_URL": "postgresql://u@h/x?sslmod=require"}, ["migrate"], 1, 'libpq knows no parameter "sslmod"'),
        ({"DATABASE_URL": "host=h sslmod=require"}, ["migrate"], 1, 'libpq knows no parameter "sslmod"'),
        ({}, ["token", "--user", "1"], 1, "Hint: Set PGFLEET_AUTH_SECRET_KEY"),
    ],
)
def test_what_went_wrong_is_told_on_stderr_with_an_exit_code(
    bare: Run, variables: dict[str, str], arguments: list[str], code: int, said: str
) -> None:
    result = bare(*arguments, **variables)
    assert result.exit_code == code
    assert result.stdout == ""
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert "hidden" not in result.stderr


def test_on_a_schema_that_was_never_migrated_the_next_command_is_named(run: Run) -> None:
    result = run("tasks", "list", SCHEMA="elsewhere")
    assert result.exit_code == 1
    assert "Hint: Run `pgfleet migrate` first." in result.stderr


# The rest


def test_workers_are_listed_with_their_state(run: Run, database: Any) -> None:
    assert answered(run("workers", "list", "--json")) == []
    register(database.connect())
    (row,) = answered(run("workers", "list", "--json"))
    assert (row["id"], row["status"], row["types"]) == (WORKER, "live", ["job"])
    assert run("workers", "list").stdout.splitlines()[1].startswith(f"{WORKER}\tlive\tnode\tjob\t10\t")


def test_a_token_is_printed_alone_and_is_the_users(run: Run, settings: Settings) -> None:
    verifier = tokens.Verifier(settings)
    reader = run("token", "--user", "7")
    assert (reader.exit_code, reader.stderr, reader.stdout.count("\n")) == (0, "", 1)
    assert verifier.verify(reader.stdout.strip()) == tokens.User(7, False)
    admin = run("token", "--user", "8", "--role", "admin").stdout.strip()
    assert verifier.verify(admin) == tokens.User(8, True)


def test_settings_are_shown_with_their_meaning_and_without_secrets(bare: Run) -> None:
    url = "postgresql://walter:hidden@db.example/fleet?password=hidden"
    result = bare("settings", "--json", DATABASE_URL=url, AUTH_SECRET_KEY="hidden", POLL="0.5")
    rows = {row["name"]: row for row in answered(result)}
    assert set(rows) == set(FIELDS)
    assert (rows["PGFLEET_POLL"]["value"], rows["PGFLEET_AUTH_SECRET_KEY"]["value"]) == (0.5, "********")
    assert "host=db.example" in rows["PGFLEET_DATABASE_URL"]["value"]
    assert "hidden" not in result.output
    assert "hidden" not in bare("settings", DATABASE_URL=url, AUTH_SECRET_KEY="hidden").output


def test_a_malformed_database_url_is_not_repeated(bare: Run) -> None:
    result = bare("settings", DATABASE_URL="postgresql://u:hidden@%%")
    assert (result.exit_code, "hidden" in result.output) == (0, False)


def test_the_readmes_table_has_a_line_for_each_setting_and_nothing_of_this_machine(bare: Run) -> None:
    lines = bare("settings", "--markdown", POLL="0.5").stdout.splitlines()
    assert len(lines) == len(FIELDS) + 2
    assert "| `PGFLEET_POLL` | `5.0` | Seconds between looks at the table that no notification asked for. |" in lines
    assert any(line.startswith("| `PGFLEET_NODE` | the host's name |") for line in lines)
