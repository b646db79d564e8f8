"""The `http` benchmark: ``POST /v1/tasks`` against an empty authenticated JSON endpoint on the same server.

Both take turns in short rounds, from the same load generator with the same request, so that what else the machine does
hits both. Nothing works on the tasks meanwhile. Reach: at least 60 % of the empty endpoint's requests/s, 16 clients.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pgfleet import migrate, tokens
from pgfleet.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
GOAL = 0.6
SECRET = "benchmark-secret-of-32-bytes-or-so"
BODY = b'{"type": "csv_export", "data": {"owner_id": 1}}'


def run(database_url: str, *, clients: int = 16, seconds: float = 5, rounds: int = 3) -> dict[str, Any]:
    """Measure ``rounds`` times ``seconds`` of each endpoint with ``clients`` keep-alive clients.

    Migrates ``database_url`` where needed and leaves the tasks in it. Returns medians: requests per second, latencies in
    milliseconds, their ratio, and whether the goal is reached.
    """
    settings = Settings(database_url=database_url, auth_secret_key=SECRET)
    migrate.migrate(settings)
    token = tokens.mint(settings, 1)
    found: dict[str, list[dict[str, float]]] = {"/v1/tasks": [], "/bench/empty": []}
    with _server(database_url) as (host, port):
        for path, status in (("/bench/empty", 200), ("/v1/tasks", 202)):  # connections, caches, prepared statements
            _load(host, port, clients, 1, status, _request(path, token))
        for number in range(rounds):
            turns = [("/v1/tasks", 202), ("/bench/empty", 200)]
            for path, status in turns if number % 2 else reversed(turns):
                found[path].append(_load(host, port, clients, seconds, status, _request(path, token)))
    tasks, empty = _medians(found["/v1/tasks"]), _medians(found["/bench/empty"])
    ratio = tasks["per_second"] / empty["per_second"]
    return {
        "clients": clients,
        "seconds": seconds,
        "rounds": rounds,
        **{f"tasks_{name}": value for name, value in tasks.items()},
        **{f"empty_{name}": value for name, value in empty.items()},
        "ratio": round(ratio, 3),
        "goal": GOAL,
        "reached": ratio >= GOAL,
    }


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    median = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    return {
        "per_second": round(median["per_second"]),
        "p50_ms": round(median["p50"] * 1000, 2),
        "p99_ms": round(median["p99"] * 1000, 2),
    }


def _request(path: str, token: str) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
    )
    return head.encode() + BODY


def _load(host: str, port: int, clients: int, seconds: float, status: int, request: bytes) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.http_load",
        host,
        str(port),
        str(clients),
        str(seconds),
        str(status),
    ]
    done = subprocess.run(command, input=request, stdout=subprocess.PIPE, cwd=ROOT, check=True, timeout=seconds + 60)
    loaded: dict[str, float] = json.loads(done.stdout)
    return loaded


@contextmanager
def _server(database_url: str) -> Iterator[tuple[str, int]]:
    """The server as a process of its own; (host, port)."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PGFLEET_")}
    env |= {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *(str(ROOT / folder) for folder in ("api", "worker", "shared"))]),
        "PGFLEET_DATABASE_URL": database_url,
        "PGFLEET_AUTH_SECRET_KEY": SECRET,
        "PGFLEET_API_PORT": "0",
        "PGFLEET_LOG_FORMAT": "json",
    }
    with tempfile.TemporaryFile("w+b") as log:
        command = [sys.executable, "-m", "tests.benchmarks.http_app"]
        process = subprocess.Popen(command, env=env, cwd=ROOT, stderr=log, stdout=log)
        try:
            url = urlsplit(_listening(process, log))
            yield str(url.hostname), int(url.port or 0)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _listening(process: subprocess.Popen[bytes], log: Any) -> str:
    """The URL, when the server says that it listens."""
    deadline = time.monotonic() + 30
    while True:
        log.seek(0)
        text = log.read().decode(errors="replace")
        for line in text.splitlines():
            if '"api.listening"' in line:
                return str(json.loads(line)["url"])
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the server did not come up:\n{text}")
        time.sleep(0.05)


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1]), indent=2))
