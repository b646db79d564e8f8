"""Files on the shared volume appear whole or not at all, and nothing but exports can be read from it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from pgfleet import volume
from tests.support.volumes import names, tiny_disk

TEMPORARY = ".export_7_2_abcABC12.tmp"


def test_the_final_name_is_the_utc_day_and_twelve_random_letters_and_digits() -> None:
    late = datetime(2026, 3, 1, 1, 30, tzinfo=timezone(timedelta(hours=5)))
    name = volume.final_name(late)
    assert name.startswith("export_260228_")
    assert name.removeprefix("export_260228_").removesuffix(".csv").isalnum()
    assert len(name) == len("export_yymmdd_.csv") + 12
    assert volume.final_name().startswith(f"export_{datetime.now(UTC):%y}")
    assert len({volume.final_name(late) for _ in range(1000)}) == 1000


def test_the_temporary_name_is_hidden_and_tells_task_and_attempt() -> None:
    assert re.fullmatch(r"\.export_7_2_[A-Za-z0-9]{8}\.tmp", volume.temporary_name(7, 2))
    assert volume.parse_temporary_name(volume.temporary_name(7, 2)) == (7, 2)
    assert volume.parse_temporary_name(".export_7_2.tmp") == (7, 2), "as earlier versions wrote it"
    assert volume.parse_temporary_name(volume.final_name()) is None


def test_a_file_stands_under_its_final_name_only_when_whole(export_dir: Path) -> None:
    with volume.publish(export_dir, temporary=TEMPORARY, final="a.csv") as file:
        file.write(b"one")
        file.write(bytearray(b"two"))
        assert names(export_dir) == [TEMPORARY]
        assert (file.bytes, file.sha256) == (6, hashlib.sha256(b"onetwo").hexdigest())
    assert names(export_dir) == ["a.csv"]
    assert (export_dir / "a.csv").read_bytes() == b"onetwo"
    assert (export_dir / "a.csv").stat().st_mode & 0o007 == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_error_nothing_is_left(export_dir: Path, error: type[BaseException]) -> None:
    def write_half() -> None:
        with volume.publish(export_dir, temporary=TEMPORARY, final="a.csv") as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write_half()
    assert names(export_dir) == []


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_failure_while_publishing_leaves_nothing(
    export_dir: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail) if call == "fsync" else monkeypatch.setattr(Path, "rename", fail)
    with (
        pytest.raises(volume.VolumeError, match="failed"),
        volume.publish(export_dir, temporary=TEMPORARY, final="a.csv") as file,
    ):
        file.write(b"whole")
    assert names(export_dir) == []


def test_a_folder_that_fails_to_sync_takes_the_file_back(export_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def fail_for_folders(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112 - a descriptor, not a path of ours
            raise OSError(5, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fail_for_folders)
    with (
        pytest.raises(volume.VolumeError),
        volume.publish(export_dir, temporary=TEMPORARY, final="a.csv") as file,
    ):
        file.write(b"whole")
    assert names(export_dir) == []


def test_two_attempts_of_a_task_do_not_write_into_each_others_file(export_dir: Path) -> None:
    with volume.publish(export_dir, temporary=volume.temporary_name(7, 1), final="zombie.csv") as zombie:
        zombie.write(b"old")
        with volume.publish(export_dir, temporary=volume.temporary_name(7, 2), final="winner.csv") as winner:
            winner.write(b"new")
            zombie.write(b"old")
    assert (export_dir / "winner.csv").read_bytes() == b"new"


def test_one_attempt_that_runs_twice_publishes_two_whole_files(export_dir: Path) -> None:
    with volume.publish(export_dir, temporary=volume.temporary_name(7, 1), final="late.csv") as late:
        late.write(b"la")
        with volume.publish(export_dir, temporary=volume.temporary_name(7, 1), final="first.csv") as first:
            first.write(b"first")
        late.write(b"te")
    assert (export_dir / "first.csv").read_bytes() == b"first"
    assert (export_dir / "late.csv").read_bytes() == b"late"


def test_a_file_under_the_temporary_name_is_never_written_into(export_dir: Path) -> None:
    (export_dir / TEMPORARY).write_bytes(b"another's")
    with (
        pytest.raises(volume.VolumeError),
        volume.publish(export_dir, temporary=TEMPORARY, final="a.csv"),
    ):
        pass
    assert (export_dir / TEMPORARY).read_bytes() == b"another's"


def test_a_missing_volume_is_said_in_words_that_name_no_path(tmp_path: Path) -> None:
    with (
        pytest.raises(volume.VolumeError, match="missing") as caught,
        volume.publish(tmp_path / "nowhere", temporary=TEMPORARY, final="a.csv"),
    ):
        pass
    assert str(tmp_path) not in str(caught.value)


def test_an_unwritable_volume_is_said_so(export_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: object, flags: int, *args: int, **kwargs: int) -> int:
        if flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse)
    with (
        pytest.raises(volume.VolumeError, match="can't be written to"),
        volume.publish(export_dir, temporary=TEMPORARY, final="a.csv"),
    ):
        pass


def test_a_write_over_the_limit_of_file_sizes_is_a_full_volume_and_leaves_nothing(export_dir: Path) -> None:
    program = """
import resource, signal, sys
from pathlib import Path
from pgfleet import volume
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    with volume.publish(Path(sys.argv[1]), temporary=".export_1_1.tmp", final="a.csv") as file:
        file.write(bytes(200_000))
except volume.VolumeError as error:
    print(error.message)
"""
    done = subprocess.run([sys.executable, "-c", program, str(export_dir)], capture_output=True, text=True, check=True)
    assert done.stdout == "The export volume is full.\n"
    assert names(export_dir) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a tmpfs")
def test_a_full_disk_is_said_so_and_leaves_nothing(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk") as disk:
        with (
            pytest.raises(volume.VolumeError, match="full"),
            volume.publish(disk, temporary=TEMPORARY, final="a.csv") as file,
        ):
            file.write(bytes(1_000_000))
        assert names(disk) == []
        with volume.publish(disk, temporary=TEMPORARY, final="b.csv") as file:
            file.write(b"fits again")
        assert names(disk) == ["b.csv"]


def test_a_finished_export_can_be_opened(export_dir: Path) -> None:
    (export_dir / "export_260301_abcABC123456.csv").write_bytes(b"title\n")
    with volume.open_export(export_dir, "export_260301_abcABC123456.csv") as file:
        assert file.read() == b"title\n"


@pytest.mark.parametrize(
    "name",
    [
        "../secret.csv", "sub/secret.csv", "/etc/passwd", "/etc/secret.csv", "..", ".", "", "a.csv\0", "a\0.csv",
        "a.csv\n", "..\\secret.csv", "a%2f.csv", "é.csv", "１.csv", "a.CSV", "a.tmp", TEMPORARY, "missing.csv",
        "link.csv", "folder.csv", "a" * 5000 + ".csv", "a b.csv",
    ],
)  # fmt: skip
def test_whatever_is_not_the_plain_name_of_an_export_is_not_found(export_dir: Path, name: str) -> None:
    (export_dir.parent / "secret.csv").write_text("secret")
    (export_dir / "sub").mkdir()
    (export_dir / "sub" / "secret.csv").write_text("secret")
    (export_dir / TEMPORARY).write_text("half")
    (export_dir / "link.csv").symlink_to(export_dir.parent / "secret.csv")
    (export_dir / "folder.csv").mkdir()
    with pytest.raises(volume.NoSuchFile):
        volume.open_export(export_dir, name)


def test_no_descriptor_leaks(export_dir: Path) -> None:
    (export_dir / "folder.csv").mkdir()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(20):
        with contextlib.suppress(volume.VolumeError):
            volume.open_export(export_dir, "folder.csv")
        with contextlib.suppress(RuntimeError), volume.publish(export_dir, temporary=TEMPORARY, final="a.csv"):
            raise RuntimeError
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
