"""Under which account Postgres runs, and where that account can reach its files.

Postgres refuses to run as root, so root hands it to an unprivileged account. That account often can't enter the
folder root works in (``/root`` is 0700 on most machines). Opening the parents would show root's files to everybody;
a bind mount needs CAP_SYS_ADMIN, which containers lack; an ACL changes the parent's mode bits as well. So the data
(and a wheel's binaries) go below :data:`STATE_ROOT`, and a symbolic link stands where they were wanted.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from pgfleet.embedded.errors import EmbeddedPostgresError

#: Where root puts what the account could not reach otherwise.
STATE_ROOT = Path("/var/lib/pgfleet")

#: libpq and Postgres both refuse a longer path of a socket (sockaddr_un, less its final NUL).
SOCKET_PATH_MAX = 107


@dataclass(frozen=True)
class Account:
    """Who runs Postgres; ``switch`` says whether this process has to become it (only root can)."""

    uid: int
    gid: int
    switch: bool

    @classmethod
    def for_data(cls, data_dir: Path) -> Account:
        """The account for ``data_dir``: this user; for root the data's owner, else ``postgres``, else ``nobody``."""
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid(), switch=False)
        if data_dir.exists() and (owner := data_dir.stat()).st_uid != 0:
            return cls(owner.st_uid, owner.st_gid, switch=True)
        for name in ("postgres", "nobody"):
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(entry.pw_uid, entry.pw_gid, switch=True)
        return cls(65534, 65534, switch=True)

    def popen_kwargs(self) -> dict[str, Any]:
        """Arguments that make subprocess run a program as this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.switch else {}

    def run(self, argv: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
        """Run ``argv`` as this account, from ``/``: it may not be able to enter the caller's working folder."""
        try:
            return subprocess.run(
                argv,
                cwd="/",
                env=clean_env(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
                **self.popen_kwargs(),
            )
        except PermissionError as error:
            raise EmbeddedPostgresError(
                f"Can't run {argv[0]} as uid {self.uid}.",
                detail=str(error),
                hint="Run as a normal user: Postgres refuses root, and this root may not switch to another account.",
            ) from error

    def reaches(self, path: Path) -> bool:
        """Whether the account can enter the folder, or execute the file, ``path``."""
        # Asked of the kernel as that account, not worked out from mode bits: ACLs and mounts count too.
        return not self.switch or self.run(["/bin/sh", "-c", 'test -x "$1"', "sh", path]).returncode == 0

    def own(self, fd_or_path: int | Path) -> None:
        """Make the account the owner, where this process is root."""
        if self.switch:
            os.chown(fd_or_path, self.uid, self.gid)


def clean_env() -> dict[str, str]:
    """This process's environment without what would change Postgres's behaviour or the language of its messages."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


def place_data(data_dir: Path, account: Account) -> Path:
    """The real path for ``data_dir``, which may not exist yet: itself, or below STATE_ROOT with a link from it."""
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    if data_dir.is_symlink() and not data_dir.resolve().parent.exists():
        raise EmbeddedPostgresError(
            f"{data_dir} is a link to {data_dir.readlink()}, which is gone.",
            hint="Bring that folder back, or remove the link to begin with an empty database.",
        )
    if account.reaches(data_dir.resolve().parent):
        return data_dir.resolve()
    if data_dir.exists():
        raise EmbeddedPostgresError(
            f"Uid {account.uid}, which owns the database in {data_dir}, can't enter its parent folders.",
            hint="Move the folder to where it can, or give PGFLEET_DIR (or --dir) such a place.",
        )
    # A random name, not one made from the path: a folder removed and made anew must not meet its old data.
    home = state_root() / "data" / uuid.uuid4().hex
    home.mkdir(mode=0o711, parents=True)
    try:
        data_dir.symlink_to(home / data_dir.name)
    except FileExistsError:  # another starter was first; its link counts
        home.rmdir()
    return data_dir.resolve()


def unplace_data(data_dir: Path, real: Path) -> None:
    """Undo what :func:`place_data` did besides choosing the path; the data itself is gone already."""
    if data_dir.is_symlink():
        data_dir.unlink()
    if real.parent.parent == STATE_ROOT / "data":
        real.parent.rmdir()


def place_binaries(bin_dir: Path, account: Account) -> Path:
    """``bin_dir``, or a copy below STATE_ROOT where the account can't execute it. About 30 MB, made once."""
    if account.reaches(bin_dir / "postgres"):
        return bin_dir
    stat = (bin_dir / "postgres").stat()
    key = sha256(f"{bin_dir.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:16]
    install = bin_dir.resolve().parent
    package = install.parent
    target = state_root() / "bin" / key
    copied_bin = target / package.name / install.name / bin_dir.name
    if not copied_bin.exists():
        partial = target.with_name(f"{key}.{os.getpid()}")
        # The folders keep their relative places: a wheel's programs find their libraries in ../../../<package>.libs.
        ignore = shutil.ignore_patterns("include", "*.a", "doc", "man")
        shutil.copytree(install, partial / package.name / install.name, symlinks=True, ignore=ignore)
        libraries = package.with_name(package.name + ".libs")
        if libraries.is_dir():
            shutil.copytree(libraries, partial / libraries.name)
        for folder in (partial, partial / package.name):
            folder.chmod(0o755)
        try:
            partial.rename(target)
        except OSError:  # another starter was first
            shutil.rmtree(partial)
    if not account.reaches(copied_bin / "postgres"):
        raise EmbeddedPostgresError(f"Uid {account.uid} can execute neither {bin_dir} nor its copy {copied_bin}.")
    return copied_bin


def place_socket(data_dir: Path, port: int, account: Account) -> Path:
    """A folder for the socket that only the account can enter: the data folder itself, unless its path won't do."""

    def fits(folder: Path) -> bool:
        # libpq splits a host at commas, even percent-encoded ones.
        return len(os.fsencode(folder / f".s.PGSQL.{port}")) <= SOCKET_PATH_MAX and "," not in str(folder)

    if fits(data_dir):
        return data_dir
    name = f"pgfleet-{account.uid}-{sha256(os.fsencode(data_dir)).hexdigest()[:16]}"
    for root in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108 -- the folder's owner and mode are checked
        folder = root.resolve() / name
        if not fits(folder) or not account.reaches(root):
            continue
        try:
            folder.mkdir(mode=0o700)
            account.own(folder)
        except FileExistsError:
            pass
        found = folder.lstat()
        # Anyone may have made a folder of this name in a world-writable place.
        if (found.st_mode, found.st_uid) != (0o040700, account.uid):
            raise EmbeddedPostgresError(f"{folder} is not a folder of uid {account.uid} alone.", hint="Remove it.")
        return folder
    raise EmbeddedPostgresError(
        f"The path {data_dir} is too long for a Unix socket, and no folder for temporary files will do instead.",
        hint="Give PGFLEET_DIR (or --dir) a shorter path.",
    )


def state_root() -> Path:
    """STATE_ROOT, made if need be. Raises :class:`EmbeddedPostgresError` where it can't be."""
    try:
        for folder in (STATE_ROOT, STATE_ROOT / "data", STATE_ROOT / "bin"):
            folder.mkdir(exist_ok=True, parents=True)
            folder.chmod(0o755)
    except OSError as error:
        raise EmbeddedPostgresError(
            f"{STATE_ROOT} can't be made, and Postgres's account can't enter the folder that was given.",
            detail=str(error),
            hint="Give PGFLEET_DIR (or --dir) a folder whose parents other users may enter, or run as a normal user.",
        ) from error
    return STATE_ROOT
