"""The peers of the benchmark suite: other task queues on Postgres, each measured by an adapter of its own.

    install(env)                                       # one Python venv, one npm folder; pinned; a stamp makes it cheap
    for peer in PEERS.values():
        if reason := peer.unavailable():               # an npm peer without npm
            ...
        run(peer, "setup", dsn, env=env)               # dsn: a URI, of a fresh database
        run(peer, "enqueue", dsn, env=env, n=200_000)
        run(peer, "drain", dsn, env=env, n=200_000, seconds_max=120)

An adapter (`run_*.py`, `run_*.mjs`) is a standalone program that knows nothing of pgfleet and runs in the peers'
environment. It prints one JSON line on stdout, everything else goes to stderr. `command` makes its command line.

| action | options | answer |
|---|---|---|
| `setup` | | `seconds`: the peer's schema is installed |
| `enqueue` | `n` | `n`, `seconds`: no-op tasks made by the fastest documented bulk call; then, untimed, ANALYZE |
| `drain` | `n`, `concurrency`, `task_ms`, `seconds_max` | below |
| `latency` | `n`, `seconds_max` | `p50_ms`, `p99_ms`, `mean_ms`, `max_ms`, `n`, `complete` |
| `create` | `n`, `clients` | `rate`, `n`, `seconds`: one by one, each client on a connection of its own |
| `tables` | | `tables`: schema-qualified names of all that a task's life writes to, for pg_stat_user_tables |

`drain` starts one worker process and stops its clock when the database holds no unsettled task: a counter in the
handlers says when to look, so that nothing disturbs the run, and the look is part of the time.

- `seconds` runs from the start of the first handler (imports, connections and the first claim are `ready_seconds`)
  to the last settle; `started` and `ended` are the same moments as epoch seconds, so that several processes on one
  database can be added up: first start to last end. The first claim is thus a gift, of up to 6,000 tasks with the
  largest batch here: measure with 200,000.
- `n` is what the database says was settled meanwhile (with several processes: by all), `handled` what this process did.
- `seconds_max` ends a run that does not: `complete` is false, `n` what was settled by then. A Python worker that blocks
  its own event loop past it is ended 30 seconds later, its stack on stderr; give `run` a `timeout` beyond that.
- `concurrency` omitted lets the peer use its fastest setting; given, no more handlers run at once. `most_running` says
  how many did, for tasks that sleep.
- `task_ms` sleeps in the handler: asyncio or a promise, all these peers being asynchronous.

`latency`: an idle worker, and a client with a connection of its own in the same process; from the start of the create
call to the start of the handler, 15 ms of quiet between two tasks, up to 20 tasks of warm-up. Give `seconds_max`: one
peer here needs a second for each task.

Settings. Each adapter's docstring gives the documented source of its configuration and what was tried beside it.
All Python peers run on uvloop, all tables are logged, `synchronous_commit` stays the server's. `set={"name": value}`
overrides one of an adapter's tuned settings for an experiment; the answer of a `drain` repeats all of them.
The versions are pinned in `requirements.txt` and `package-lock.json`. The newest npm peers want a newer node than many
machines have, so a node of their own is one of the pinned npm packages; where it has no build, the one on PATH serves.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["PEERS", "Action", "Peer", "PeerError", "command", "install", "run"]

HERE = Path(__file__).parent
Action = Literal["setup", "enqueue", "drain", "latency", "create", "tables"]


class PeerError(RuntimeError):
    """An adapter or the making of its environment failed; the message ends with what it wrote to stderr."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One peer in one configuration."""

    name: str
    description: str
    runtime: Literal["python", "node"]
    script: str
    row_locking: bool
    """It claims with FOR UPDATE SKIP LOCKED on the table of the jobs."""
    slow: bool = False
    """It settles less than 5,000 no-op tasks a second: whatever the backlog, it sees no more than the start of it."""
    variant: str | None = None

    def unavailable(self) -> str | None:
        """Why this peer cannot run on this machine, or None."""
        if self.runtime == "node" and not shutil.which("npm"):
            return f"{self.name} comes from npm, and there is no npm on PATH: install Node.js to measure it"
        return None

    def available(self) -> bool:
        return self.unavailable() is None


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        # https://procrastinate.readthedocs.io/en/stable/howto/production/concurrency.html
        Peer(
            "procrastinate",
            "procrastinate 3.10.0, psycopg: one async worker, concurrency 10, LISTEN/NOTIFY, delete_jobs=successful",
            "python",
            "run_procrastinate.py",
            row_locking=True,
            slow=True,
        ),
        # https://pgqueuer.readthedocs.io/en/latest/guides/performance-tuning/
        Peer(
            "pgqueuer-asyncpg",
            "pgqueuer 1.6.0, asyncpg: durable, `autovac` applied, 2 queue managers, batch_size 500",
            "python",
            "run_pgqueuer.py",
            row_locking=True,
            variant="asyncpg",
        ),
        Peer(
            "pgqueuer-psycopg",
            "pgqueuer 1.6.0, psycopg: durable, `autovac` applied, 2 queue managers, batch_size 500",
            "python",
            "run_pgqueuer.py",
            row_locking=True,
            variant="psycopg",
        ),
        # https://github.com/hardbyte/awa/blob/main/docs/configuration.md
        Peer(
            "awa",
            "awa-pg 0.6.9: queue storage, 500 workers, 1 claimer, claim_batch_size 512",
            "python",
            "run_awa.py",
            row_locking=False,
        ),
        # https://tkte.ch/chancy/guide/queues.html
        Peer(
            "chancy",
            "chancy 0.26.0: async executor, concurrency 1000, eager polling, updates sent every 50 ms",
            "python",
            "run_chancy.py",
            row_locking=True,
            slow=True,
        ),
        # https://worker.graphile.org/docs/performance
        Peer(
            "graphile-worker",
            "graphile-worker 0.18.0 as it comes: 24 concurrent jobs, pool of 25",
            "node",
            "run_graphile_worker.mjs",
            row_locking=True,
            slow=True,
            variant="default",
        ),
        Peer(
            "graphile-worker-batched",
            "graphile-worker 0.18.0: 24 concurrent jobs, pool of 25, localQueue 2000, batched completion without delay",
            "node",
            "run_graphile_worker.mjs",
            row_locking=True,
            variant="batched",
        ),
        # https://timgit.github.io/pg-boss/#/./api/workers
        Peer(
            "pg-boss",
            "pg-boss 12.35.0: batchSize 3000, localConcurrency 2, burstWhenBatchFull, LISTEN/NOTIFY",
            "node",
            "run_pg_boss.mjs",
            row_locking=True,
        ),
    )
}


def install(env: Path) -> None:
    """Make the peers' environments under `env`: one venv, one npm folder. Does nothing where the pins are unchanged."""
    env.mkdir(parents=True, exist_ok=True)
    python = env / "python"
    if not _stamped(python, "requirements.txt"):
        shutil.rmtree(python, ignore_errors=True)
        _install_python(python)
        _stamp(python, "requirements.txt")
    if reason := next((why for peer in PEERS.values() if (why := peer.unavailable())), None):
        print(f"npm peers left out: {reason}", file=sys.stderr)
        return
    node = env / "node"
    if not _stamped(node, "package.json", "package-lock.json"):
        shutil.rmtree(node, ignore_errors=True)
        node.mkdir()
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, node / name)
        # No package needs its install script, and none gets to run one.
        _check(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=node)
        _stamp(node, "package.json", "package-lock.json")


def command(peer: Peer, action: Action, dsn: str, *, env: Path, **options: Any) -> list[str]:
    """The command line of one action of a peer's adapter.

    `dsn` is a postgresql:// URI. Options are those of the action (see the module); None means: not given.
    """
    if peer.runtime == "python":
        line = [str(env / "python" / "bin" / "python"), str(HERE / peer.script), action]
    else:
        line = [_node(env), str(HERE / peer.script), action, "--env", str(env / "node")]
    line += ["--dsn", dsn]
    if peer.variant:
        line += ["--variant", peer.variant]
    overrides: Mapping[str, object] = options.pop("set", None) or {}
    for name, value in options.items():
        if value is not None:
            line += [f"--{name.replace('_', '-')}", str(value)]
    for name, value in overrides.items():
        line += ["--set", f"{name}={value}"]
    return line


def run(
    peer: Peer, action: Action, dsn: str, *, env: Path, timeout: float | None = None, **options: Any
) -> dict[str, Any]:
    """Run one action and answer what the adapter printed; `timeout` in seconds kills an adapter that hangs."""
    line = command(peer, action, dsn, env=env, **options)
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as late:
        raise PeerError(f"{peer.name} {action}: no answer within {timeout:g} s") from late
    if done.returncode or done.stdout.count("\n") != 1:
        raise PeerError(f"{peer.name} {action}: exit code {done.returncode}\n{done.stderr[-4000:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _install_python(folder: Path) -> None:
    requirements = str(HERE / "requirements.txt")
    if uv := shutil.which("uv"):
        _check([uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
        _check([uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), "-r", requirements])
    else:
        _check([sys.executable, "-m", "venv", str(folder)])
        _check([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "-r", requirements])


def _node(env: Path) -> str:
    own = env / "node" / "node_modules" / ".bin" / "node"
    return str(own) if own.exists() else shutil.which("node") or "node"


def _digest(names: tuple[str, ...]) -> str:
    digest = hashlib.sha256(sys.version.encode())
    for name in names:
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()


def _stamped(folder: Path, *names: str) -> bool:
    stamp = folder / ".stamp"
    return stamp.is_file() and stamp.read_text() == _digest(names)


def _stamp(folder: Path, *names: str) -> None:
    (folder / ".stamp").write_text(_digest(names))


def _check(line: list[str], cwd: Path | None = None) -> None:
    # An active venv of ours must not attract what is meant for the peers' own.
    outside = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    done = subprocess.run(line, cwd=cwd, env=outside, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerError(f"{' '.join(line[:3])}: exit code {done.returncode}\n{(done.stderr or done.stdout)[-4000:]}")
