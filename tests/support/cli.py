"""Words for tests of the ``pgfleet`` command."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
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


def on_terminal(settings: Settings, *arguments: str) -> str:
    """What the command, in a process of its own, shows on a terminal of 200 columns; it must end with 0."""
    leader, follower = pty.openpty()
    env = {**environment(settings), "COLUMNS": "200", "TERM": "xterm"}
    argv = [sys.executable, "-m", "pgfleet.cli.main", *arguments]
    shown = b""
    with subprocess.Popen(argv, env=env, stdout=follower, stderr=subprocess.PIPE) as process:
        os.close(follower)
        try:
            while piece := os.read(leader, 65536):
                shown += piece
        except OSError:  # how Linux says that the other side is closed
            pass
        os.close(leader)
        assert process.wait(40) == 0, process.stderr
    return shown.decode()
