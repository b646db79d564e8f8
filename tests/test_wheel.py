"""The distribution as a user installs it: from a wheel, without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from pgfleet import demo
from tests.support.database import Database

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pgfleet", "pgfleet_api", "pgfleet_worker")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [made] = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel in it; its dependencies are this interpreter's own packages."""
    folder = tmp_path_factory.mktemp("installed")
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    python = folder / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    # What an installer does with a wheel that has nothing but Python: unpack it, and write its scripts.
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # As plain folders, so that no .pth file there brings the checkout in; behind the wheel's own packages.
    ours = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(site, "dependencies.pth").write_text("\n".join(sorted(ours)) + "\n")
    return python


def pgfleet(python: Path, folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """``pgfleet ARGUMENTS`` of the installed wheel, from a folder that is no checkout."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PGFLEET_") and k != "PYTHONPATH"}
    argv = [str(python), "-m", "pgfleet.cli.main", *arguments]
    return subprocess.run(
        argv, cwd=folder, env={**clean, **env}, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_installed_packages_are_the_wheels_own(installed: Path, tmp_path: Path) -> None:
    code = f"import {', '.join(PACKAGES)}; print(*(p.__file__ for p in ({', '.join(PACKAGES)},)), sep='\\n')"
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([installed, "-c", code], cwd=tmp_path, env=clean, capture_output=True, text=True, check=True)
    for file in done.stdout.splitlines():
        assert Path(file).is_relative_to(installed.parent.parent), file


def test_every_command_is_found(installed: Path, tmp_path: Path) -> None:
    done = pgfleet(installed, tmp_path, "--help")
    assert done.returncode == 0, done.stderr
    for name in ("api", "migrate", "settings", "tasks", "token", "up", "worker", "workers"):
        assert f"\n  {name} " in done.stdout
    assert "not installed" not in done.stdout


def test_an_installed_pgfleet_migrates_and_brings_its_own_library(
    installed: Path, empty_database: Database, tmp_path: Path
) -> None:
    url = empty_database.url
    done = pgfleet(installed, tmp_path, "migrate", PGFLEET_DATABASE_URL=url)
    assert done.returncode == 0, done.stderr
    assert "0001_fleet" in done.stdout
    assert pgfleet(installed, tmp_path, "migrate", "--check", PGFLEET_DATABASE_URL=url).returncode == 0
    up = pgfleet(installed, tmp_path, "up", "--once", "--workers", "1", PGFLEET_DATABASE_URL=url)
    assert up.returncode == 0, up.stderr
    mine = sum(1 for book in demo.books() if book["owner_id"] == 1)
    assert f"Exported {mine} books" in up.stdout
    assert (tmp_path / ".pgfleet" / "exports").is_dir()


def test_the_wheel_holds_no_tests_and_no_bytecode(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.partition("/")[0] for name in names}
    assert top == {*PACKAGES, next(name for name in top if name.endswith(".dist-info"))}
    assert not [name for name in names if "__pycache__" in name]
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
