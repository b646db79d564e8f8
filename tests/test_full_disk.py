"""A volume that is full, gone or read-only: the reader is told, nothing torn is left, the worker works on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgfleet import sql, tasks, volume
from pgfleet_worker.handlers.csv_export import write_export
from tests.support.database import Database
from tests.support.fleet import Connection
from tests.support.following import ended
from tests.support.processes import Process, Processes
from tests.support.volumes import names, tiny_disk
from tests.support.workers import worker

Wait = Callable[..., Any]
Export = Callable[..., dict[str, Any]]

#: Readers of the library below: of a few books, and of more than the disk holds.
SMALL, LARGE = 1, 2

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a tmpfs")


@pytest.fixture
def conn(database: Database) -> Connection:
    conn = database.connect()
    conn.execute(sql.text("demo/library.sql"))
    conn.execute(
        "insert into books (title, owner_id) select repeat('x', 500), case when g > 10 then 2 else 1 end"
        " from generate_series(1, 5000) g"
    )
    return conn


@pytest.fixture
def disk(export_dir: Path) -> Iterator[Path]:
    """A file system of 128 KiB for the exports."""
    with tiny_disk(export_dir) as disk:
        yield disk


@pytest.fixture
def exporter(processes: Processes) -> Process:
    return worker(processes, "--types", "csv_export")


@pytest.fixture
def export(conn: Connection, exporter: Process, wait_until: Wait) -> Export:
    """``export(reader)``: the row of an export that has ended; the worker still runs."""

    def run(reader: int) -> dict[str, Any]:
        row: dict[str, Any] = wait_until(ended(conn, tasks.create(conn, "csv_export", created_by=reader)))
        assert exporter.popen.poll() is None
        return row

    return run


def failed(row: dict[str, Any], message: str, folder: Path) -> None:
    """The reader is told ``message``, without the path; the operators get the traceback."""
    assert row["status"] == "failure"
    assert row["error"].splitlines()[0] == message
    assert str(folder) not in row["error"]
    assert "OSError" in row["error_detail"] or "Error: [Errno" in row["error_detail"]


@needs_root
def test_a_disk_that_fills_up_fails_the_task_and_the_next_one_that_fits_succeeds(disk: Path, export: Export) -> None:
    failed(export(LARGE), "The export volume is full.", disk)
    assert names(disk) == []
    assert export(SMALL)["status"] == "success"
    assert len(names(disk)) == 1


@needs_root
def test_a_disk_that_is_full_already_is_said_so_until_there_is_room_again(disk: Path, export: Export) -> None:
    filler = disk / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(bytes(1_000_000))
    assert export(SMALL)["status"] == "failure"
    failed(export(SMALL), "The export volume is full.", disk)
    assert names(disk) == ["filler"]
    filler.unlink()
    assert export(SMALL)["status"] == "success"


@needs_root
def test_a_read_only_volume_is_said_so_until_it_can_be_written_again(disk: Path, export: Export) -> None:
    assert export(SMALL)["status"] == "success"
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    failed(export(SMALL), "The export volume can't be written to.", disk)
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert export(SMALL)["status"] == "success"
    assert len(names(disk)) == 2


def test_a_volume_that_is_gone_is_said_so_until_it_is_back(export_dir: Path, export: Export) -> None:
    export_dir.rmdir()
    failed(export(SMALL), "The export volume is missing.", export_dir)
    assert not export_dir.exists(), "an export must not make the folder under a mount point"
    export_dir.mkdir()
    assert export(SMALL)["status"] == "success"


def test_a_disk_that_says_so_only_when_it_is_synced_leaves_nothing(
    conn: Connection, processes: Processes, export_dir: Path, tmp_path: Path, wait_until: Wait
) -> None:
    """As network volumes and delayed allocation do. No disk here does, so the worker's own fsync refuses."""
    full = tmp_path / "full"
    full.touch()
    process = processes.worker("--handlers", "tests.support.full_disk", env={"TEST_DISK_FULL_WHILE": str(full)})
    process.wait_for_event("worker.registered")
    row = wait_until(ended(conn, tasks.create(conn, "csv_export", created_by=SMALL)))
    failed(row, "The export volume is full.", export_dir)
    assert names(export_dir) == []
    full.unlink()
    row = wait_until(ended(conn, tasks.create(conn, "csv_export", created_by=SMALL)))
    assert row["status"] == "success"
    assert len(names(export_dir)) == 1


@pytest.mark.parametrize("back", [False, True])
def test_a_folder_that_vanishes_during_an_export_leaves_nothing_of_it(
    conn: Connection, database: Database, export_dir: Path, back: bool
) -> None:
    def vanish(written: int) -> None:
        if export_dir.exists() and names(export_dir) != []:
            shutil.rmtree(export_dir)
            if back:
                export_dir.mkdir()

    with psycopg.connect(database.url) as handlers, pytest.raises(volume.VolumeError, match="missing"):
        write_export(handlers, LARGE, export_dir, 5, 1, vanish)
    assert not export_dir.exists() or names(export_dir) == []


@needs_root
def test_a_volume_that_is_unmounted_during_an_export_leaves_nothing_under_its_mount_point(
    conn: Connection, database: Database, tmp_path: Path
) -> None:
    def unmount(written: int) -> None:
        if names(folder):
            subprocess.run(["umount", "-l", str(folder)], check=True)

    folder = tmp_path / "mounted"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    with psycopg.connect(database.url) as handlers, pytest.raises(volume.VolumeError, match="missing"):
        write_export(handlers, LARGE, folder, 5, 1, unmount)
    assert names(folder) == []
