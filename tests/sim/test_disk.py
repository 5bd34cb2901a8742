"""The pretended disk keeps the contract of all disks, and fails as it is told to."""

from __future__ import annotations

import errno
from random import Random

import apsw
import pytest

from isochrone.sim.disk import Platter, SimDisk
from tests.contract.disk import DiskContract


class TestSimDisk(DiskContract):
    @pytest.fixture(autouse=True)
    def platter(self) -> None:
        self.medium = Platter(Random(1))

    def open_disk(self) -> SimDisk:
        return SimDisk(self.medium)


def disk_with_file(platter: Platter):
    disk = SimDisk(platter)
    return disk, disk.create("a")


def test_after_a_kill_nothing_is_lost_and_all_handles_are_dead() -> None:
    platter = Platter(Random(1))
    disk, file = disk_with_file(platter)
    file.write_at([b"abc"], 0)
    platter.kill()
    for call in (
        *(lambda: file.write_at([b"x"], 0), lambda: file.read_at(1, 0), file.sync, file.size),
        *(lambda: file.truncate(0), lambda: disk.create("b"), lambda: disk.remove("a")),
        *(disk.names, disk.sync_names, disk.metadata, disk.free_bytes, lambda: disk.open("a")),
    ):
        with pytest.raises(OSError):
            call()
    file.close()
    disk.close()
    again = SimDisk(platter)
    disk.close()  # of the old life: does not free the new hold
    assert again.open("a").read_at(10, 0) == b"abc"


@pytest.mark.parametrize("crash", [Platter.kill, Platter.power_cut])
def test_a_crash_rolls_an_open_transaction_back(crash) -> None:
    platter = Platter(Random(1))
    old = SimDisk(platter).metadata()
    old.execute("CREATE TABLE t(x)")
    old.execute("INSERT INTO t VALUES(1)")
    old.execute("BEGIN; INSERT INTO t VALUES(2)")
    rows = old.execute("SELECT x FROM t")
    next(rows)
    crash(platter)
    with pytest.raises(apsw.ConnectionClosedError):
        old.execute("COMMIT")
    new = SimDisk(platter).metadata()
    assert list(new.execute("SELECT x FROM t")) == [(1,)]
    new.execute("INSERT INTO t VALUES(3)")
    new.close()


def test_platters_do_not_share_their_metadata() -> None:
    one, two = (SimDisk(Platter(Random(1))).metadata() for _ in range(2))
    one.execute("CREATE TABLE t(x)")
    two.execute("CREATE TABLE t(x)")


def test_a_full_disk_takes_what_fits() -> None:
    platter = Platter(Random(1), capacity=10)
    _, file = disk_with_file(platter)
    file.write_at([b"0123456"], 0)
    with pytest.raises(OSError) as caught:
        file.write_at([b"abc", b"def"], 7)
    assert caught.value.errno == errno.ENOSPC
    assert file.read_at(100, 0) == b"0123456abc"
    with pytest.raises(OSError):
        file.write_at([b"x"], 20)
    file.write_at([b"overwriting needs nothing"[:10]], 0)
    file.truncate(5)
    file.write_at([b"x"], 9)
    assert platter.free_bytes() == 0


def test_chances_of_faults() -> None:
    platter = Platter(Random(1))
    faults = platter.faults
    _, file = disk_with_file(platter)
    file.write_at([bytes(8192)], 0)
    for fault, call in (
        ("write_error", lambda: file.write_at([b"x"], 0)),
        ("write_short", lambda: file.write_at([b"x"], 0)),
        ("read_error", lambda: file.read_at(1, 0)),
        ("sync_error", file.sync),
    ):
        setattr(faults, fault, 1.0)
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EIO
        setattr(faults, fault, 0.0)
        call()
    faults.read_flip = 1.0
    assert sum(byte.bit_count() for byte in file.read_at(8000, 100)) == 1
    faults.read_flip = 0.0
    assert not any(file.read_at(8000, 100))
    faults.write_lost = 1.0
    file.write_at([b"lost"], 4096)
    assert not any(file.read_at(4096, 4096))
    faults.write_lost = 0.0
    faults.write_astray = 1.0
    file.write_at([b"astray"], 1)
    assert b"astray" in file.read_at(1 << 20, 0)
    assert file.read_at(6, 1) != b"astray"


def test_the_nth_call_fails_once_or_for_ever() -> None:
    platter = Platter(Random(1))
    disk, file = disk_with_file(platter)
    platter.faults.fail_at = 3
    file.write_at([b"a"], 0)
    file.read_at(1, 0)
    with pytest.raises(OSError):
        disk.names()
    assert disk.names() == ["a"]
    platter.faults.fail_at, platter.faults.fail_for_ever = 1, True
    for _ in range(3):
        with pytest.raises(OSError):
            file.sync()


def test_bit_rot() -> None:
    platter = Platter(Random(1))
    _, file = disk_with_file(platter)
    file.write_at([b"abc"], 0)
    platter.flip("a", 1, bit=0)
    assert file.read_at(3, 0) == b"acc"


def test_every_call_can_be_watched() -> None:
    platter = Platter(Random(1))
    seen = []
    platter.watch = lambda call, name: seen.append((call, name))
    disk, file = disk_with_file(platter)
    file.write_at([b"x"], 0)
    file.sync()
    disk.sync_names()
    assert seen == [("create", "a"), ("write", "a"), ("sync", "a"), ("sync_names", "")]
    assert platter.calls == 4


def test_a_crash_before_a_call_stops_it() -> None:
    platter = Platter(Random(1))
    _, file = disk_with_file(platter)
    platter.watch = lambda call, name: platter.kill()
    with pytest.raises(OSError):
        file.write_at([b"x"], 0)
    platter.watch = None
    assert SimDisk(platter).open("a").size() == 0


def test_preallocated_space_takes_no_memory() -> None:
    platter = Platter(Random(1))
    _, file = disk_with_file(platter)
    file.truncate(1 << 40)
    file.write_at([b"x"], 0)
    assert file.read_at(10, (1 << 40) - 3) == bytes(3)
    assert file.size() == 1 << 40
