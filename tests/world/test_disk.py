"""The real disk keeps the contract of all disks, and does what only a folder can do wrong."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from isochrone.world.disk import FolderDisk, FolderFile
from tests.contract.disk import DiskContract


class TestFolderDisk(DiskContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.path = tmp_path / "pool"

    def open_disk(self) -> FolderDisk:
        return FolderDisk(self.path)


def test_the_folder_is_private(tmp_path: Path) -> None:
    disk = FolderDisk(tmp_path / "a" / "pool")
    disk.create("x").close()
    assert (tmp_path / "a" / "pool").stat().st_mode & 0o077 == 0
    assert (tmp_path / "a" / "pool" / "x").stat().st_mode & 0o077 == 0
    disk.close()


def test_reserved_room_is_taken_and_given_back(tmp_path: Path) -> None:
    file = FolderFile(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    file.write_at([b"abcd"], 0)
    file.reserve(1 << 20)
    if (tmp_path / "x").stat().st_blocks * 512 < 1 << 20:
        pytest.skip("this file system does not reserve room")
    file.truncate(4)
    assert (tmp_path / "x").stat().st_blocks * 512 <= 64 << 10
    assert file.read_at(10, 0) == b"abcd"
    file.close()


def test_room_that_there_is_not_is_no_error(tmp_path: Path) -> None:
    file = FolderFile(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    file.reserve(1 << 60)
    file.write_at([b"abcd"], 0)
    assert file.size() == 4
    file.close()


def test_a_short_write_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = FolderFile(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    real = os.pwrite
    monkeypatch.setattr(os, "pwritev", lambda fd, pieces, at: real(fd, b"".join(pieces)[:2], at))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, bytes(data)[:3], at))
    file.write_at([b"abcd", b"efgh"], 1)
    assert file.read_at(100, 0) == b"\0abcdefgh"
    file.close()


def test_a_device_that_takes_nothing_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = FolderFile(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    monkeypatch.setattr(os, "pwritev", lambda fd, pieces, at: 1)
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: 0)
    with pytest.raises(OSError) as caught:
        file.write_at([b"abcd"], 0)
    assert caught.value.errno == errno.EIO
    file.close()


def test_a_copy_of_the_metadata_that_failed_takes_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FolderDisk(tmp_path)
    store = disk.metadata()
    store.execute("CREATE TABLE t(x)")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = set(os.listdir(tmp_path))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        disk.back_up_metadata(store)
    assert set(os.listdir(tmp_path)) == before
    store.close()
    disk.close()


def test_a_short_read_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = FolderFile(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    file.write_at([b"abcdefgh"], 0)
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, length, at: real(fd, min(length, 3), at))
    assert file.read_at(8, 0) == b"abcdefgh"
    assert file.read_at(100, 2) == b"cdefgh"
    file.close()
