"""The sweep: it takes from the volume what nobody will ever want, and nothing else."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from pgfleet import housekeeping, leftovers, volume
from pgfleet.leftovers import ForeignVolume
from tests.support.database import Database
from tests.support.fleet import WORKER, Connection, claim, create, put, register, rows_read, task, value
from tests.support.volumes import WHOLE, place, written


@pytest.fixture
def conn(database: Database) -> Connection:
    conn = database.connect()
    register(conn)
    return conn


@pytest.fixture(autouse=True)
def _marked(conn: Connection, export_dir: Path) -> None:
    """The fleet has kept its files here for a week."""
    place(export_dir, f".pgfleet_{value(conn, 'select id::text from fleet_identity')}", hours=7 * 24)


def sweep(conn: Connection, folder: Path) -> list[str]:
    """What a whole sweep removes."""
    steps = list(housekeeping.sweep(conn, folder))
    assert [step.failed for step in steps if step.failed] == []
    return sorted(file.name for step in steps for file in step.files)


def start(conn: Connection, hours_ago: float = 0.0) -> int:
    """A task that its first attempt holds, since so many hours."""
    id = create(conn)
    assert claim(conn) == [id]
    conn.execute("update tasks set started_at = now() - %s where id = %s", [timedelta(hours=hours_ago), id])
    return id


def test_the_unfinished_file_of_an_attempt_goes_once_it_no_longer_holds_the_task(
    conn: Connection, export_dir: Path
) -> None:
    id = start(conn, 3)
    half = place(export_dir, volume.temporary_name(id, 1))
    assert sweep(conn, export_dir) == []
    conn.execute("select release_tasks(%s, %s, '{1}')", [WORKER, [id]])
    assert claim(conn) == [id]
    held = place(export_dir, volume.temporary_name(id, 2))
    assert sweep(conn, export_dir) == [half.name]
    assert held.exists()


@pytest.mark.parametrize("wanted", ["waiting", "fresh", "success", "failure", "crashed", "cancelled", None])
def test_an_unfinished_file_of_a_task_that_does_not_run_goes(
    conn: Connection, export_dir: Path, wanted: str | None
) -> None:
    id = put(conn, wanted) if wanted else 4711
    attempt = task(conn, id)["attempt"] if wanted else 1
    for name in (
        f".export_{id}_{attempt}.tmp",
        volume.temporary_name(id, attempt),
    ):  # as earlier versions named it, too
        place(export_dir, name)
        assert sweep(conn, export_dir) == [name]


def test_a_whole_file_without_a_row_goes_and_one_with_a_row_stays(conn: Connection, export_dir: Path) -> None:
    place(export_dir, WHOLE)
    listed = place(export_dir, "export_260131_bbbbbbbbbbbb.csv", hours=10_000)
    conn.execute(
        "insert into exports (filename, owner_id, task_id, format, bytes, sha256) values (%s, 1, 1, 'csv', 6, %s)",
        [listed.name, "0" * 64],
    )
    assert sweep(conn, export_dir) == [WHOLE]
    assert listed.exists()


def test_a_file_that_its_attempt_may_yet_publish_stays_however_long_that_takes(
    conn: Connection, export_dir: Path
) -> None:
    """Renamed, but not yet recorded: Postgres was away for half a day."""
    id = start(conn, hours_ago=12)
    place(export_dir, WHOLE, hours=11)
    assert sweep(conn, export_dir) == []
    finish = "select finish_export(%s, %s, 1, '', %s, 1, 'csv', 6, %s)"
    conn.execute(finish, [WORKER, id, WHOLE, "0" * 64])
    start(conn, hours_ago=0.5)
    assert sweep(conn, export_dir) == []
    conn.execute("delete from exports")
    assert sweep(conn, export_dir) == [WHOLE], "a task that began after the file was written can't have made it"


@pytest.mark.parametrize("name", [WHOLE, ".export_4711_1_abcABC12.tmp"])
def test_young_files_are_let_alone(conn: Connection, export_dir: Path, name: str) -> None:
    place(export_dir, name, hours=0.9)
    place(export_dir, "export_260131_bbbbbbbbbbbb.csv", hours=-5)  # a clock ahead of ours
    assert sweep(conn, export_dir) == []


@pytest.mark.parametrize(
    "name",
    [
        "notes.csv", "export.csv", "export_260131_aaaaaaaaaaaa.csv.bak", "xexport_260131_aaaaaaaaaaaa.csv",
        "export_260131_aaaaaaaaaaa.csv", "export_2601311_aaaaaaaaaaaa.csv", "export_260131_aaaaaaaaaaaa.txt",
        ".export_1_1.tmp~", ".export_1_1", ".export_1_99999999999.tmp", ".export_9999999999999999999_1.tmp",
        ".export_1_1_short.tmp", ".nfs000000000001", ".gitkeep", "export_٢٦٠١٣١_aaaaaaaaaaaa.csv",
    ],
)  # fmt: skip
def test_a_file_with_a_name_that_is_not_ours_is_never_touched(conn: Connection, export_dir: Path, name: str) -> None:
    place(export_dir, name, hours=10_000)
    assert sweep(conn, export_dir) == []
    assert (export_dir / name).exists()


def test_links_and_folders_with_our_names_are_never_followed_nor_removed(conn: Connection, export_dir: Path) -> None:
    outside = export_dir.parent / "outside"
    outside.mkdir()
    secret = place(outside, WHOLE)
    link = export_dir / "export_260131_cccccccccccc.csv"
    link.symlink_to(secret)
    half = export_dir / ".export_1_1_abcABC12.tmp"
    half.symlink_to(secret)
    folder = export_dir / "export_260131_dddddddddddd.csv"
    folder.mkdir()
    linked_folder = export_dir / "more"
    linked_folder.symlink_to(outside)
    for path in (link, half, folder):
        written(path, 5)
    assert sweep(conn, export_dir) == []
    assert secret.exists()
    assert link.is_symlink()
    assert folder.is_dir()
    with leftovers.opened(export_dir) as opened, pytest.raises(ValueError, match="no regular file"):
        leftovers.remove(opened, link.name)


@pytest.mark.parametrize("name", ["../outside.csv", "/etc/passwd", ".", "", "sub/" + WHOLE, "notes.csv"])
def test_no_other_name_can_be_removed(export_dir: Path, name: str) -> None:
    (export_dir.parent / "outside.csv").touch()
    (export_dir / "notes.csv").touch()
    with leftovers.opened(export_dir) as opened, pytest.raises(ValueError, match="no export's name"):
        leftovers.remove(opened, name)


def test_a_folder_that_is_exchanged_for_a_link_meanwhile_leads_nowhere(export_dir: Path) -> None:
    other = export_dir.parent / "other"
    other.mkdir()
    place(other, WHOLE)
    with leftovers.opened(export_dir) as opened:
        export_dir.rename(export_dir.parent / "moved")
        export_dir.symlink_to(other)
        assert leftovers.remove(opened, WHOLE) is False
    assert (other / WHOLE).exists()


def test_nothing_is_swept_until_the_mark_has_stood_for_an_hour(conn: Connection, export_dir: Path) -> None:
    (mark,) = export_dir.glob(".pgfleet_*")
    mark.unlink()
    place(export_dir, WHOLE)
    assert sweep(conn, export_dir) == []
    assert mark.exists()
    written(mark, 0.9)
    assert sweep(conn, export_dir) == []
    written(mark, 1.1)
    assert sweep(conn, export_dir) == [WHOLE]


def test_a_volume_that_another_fleet_uses_too_is_swept_by_neither(
    conn: Connection, database: Database, export_dir: Path
) -> None:
    place(export_dir, WHOLE)  # the other's, for which there is no row here
    with leftovers.opened(export_dir) as opened, pytest.raises(ForeignVolume):
        leftovers.mark(opened, "00000000-0000-4000-8000-000000000000")
    with pytest.raises(ForeignVolume, match="Another fleet") as caught:
        sweep(conn, export_dir)
    assert "volume of its own" in str(caught.value.hint)
    assert (export_dir / WHOLE).exists()


def test_many_files_are_asked_about_in_steps(
    conn: Connection, export_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "STEP", 3)
    for n in range(7):
        place(export_dir, f"export_260131_{n:012}.csv")
    assert [len(step.files) for step in housekeeping.sweep(conn, export_dir)] == [3, 3, 1]
    assert sweep(conn, export_dir) == []


def test_a_missing_volume_is_said_so(conn: Connection, tmp_path: Path) -> None:
    with pytest.raises(volume.VolumeError, match="missing"):
        sweep(conn, tmp_path / "nowhere")


def test_no_descriptor_stays_open(conn: Connection, export_dir: Path) -> None:
    place(export_dir, WHOLE)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        sweep(conn, export_dir)
        housekeeping.remove(export_dir, [WHOLE, "notes.csv"])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_question_about_files_reads_no_other_tasks(conn: Connection, export_dir: Path) -> None:
    conn.execute(
        "insert into tasks (type, status, created_by) select 'job', 'success', 0 from generate_series(1, 20000)"
    )
    start(conn)
    conn.execute("analyze tasks")
    query = "select orphaned_files('{x,y}', array[now(), now()], '{null,1}', '{null,1}')"
    answer, read = rows_read(conn, query, [])
    assert len(answer) == 1
    assert read < 10
