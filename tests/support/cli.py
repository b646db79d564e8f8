"""Words for tests of the ``pgfleet`` command."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from click.testing import CliRunner, Result

from pgfleet.cli import main as cli
from pgfleet.settings import Settings
from tests.support.database import environment

Run = Callable[..., Result]


def runner(settings: Settings) -> Run:
    """``run("tasks", "list", X="…")``: the command with ``settings`` and the variables PGFLEET_X."""
    ours = {name: value for name, value in environment(settings).items() if name.startswith("PGFLEET_")}

    def run(*arguments: str, stdin: str | None = None, **variables: str) -> Result:
        env = {**ours, **{f"PGFLEET_{name}": value for name, value in variables.items()}}
        return CliRunner().invoke(cli.main, arguments, input=stdin, env=env, prog_name="pgfleet")

    return run


def answered(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return json.loads(result.stdout)
