"""Real volumes on a real folder keep the contract of a block device; so do copies of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from isochrone.errors import Damaged, NotFound, OutOfRange
from isochrone.store import copies, volumes
from isochrone.store.front import PoolBackend
from isochrone.store.pool import LIMITS, Pool
from isochrone.store.volume import VolumeDevice
from isochrone.types import BLOCK, KIB, MIB, TIB
from isochrone.world.disk import FolderDisk
from tests.contract.device import DeviceContract
from tests.store.pools import Rig, client, device, get, mapped_blocks, open_on, pattern, put

ODD = MIB + 512  # no multiple of a block


@pytest.fixture
def folder_pool(tmp_path: Path) -> Iterator[Pool]:
    disk = FolderDisk(tmp_path)
    pool = open_on(disk, LIMITS)
    yield pool
    pool.abandon()
    disk.close()


class TestVolume(DeviceContract):
    SIZE = MIB

    @pytest.fixture
    def device_backend(self, folder_pool: Pool) -> PoolBackend:
        volumes.create(folder_pool, "disk", self.SIZE)
        copies.take(folder_pool, ["disk"], name="t0")
        return PoolBackend(folder_pool)

    FROZEN = "disk@t0"

    def take_copy(self, device_backend: PoolBackend, name: str) -> None:
        copies.take(device_backend._pool, [self.WRITABLE], name=name)


class TestOddSize(TestVolume):
    SIZE = ODD


class TestLargest(TestVolume):
    SIZE = 64 * TIB


class TestClone(DeviceContract):
    """A clone of a snapshot whose source was written before and after."""

    WRITABLE = "disk@t0@c"
    FROZEN = "disk@t0"
    take_copy = TestVolume.take_copy

    @pytest.fixture
    def device_backend(self, folder_pool: Pool) -> PoolBackend:
        volumes.create(folder_pool, "disk", MIB)
        put(folder_pool, "disk", 300 * KIB, b"shared")
        copies.take(folder_pool, ["disk"], name="t0")
        copies.take(folder_pool, ["disk@t0"], name="c", writable=True)
        put(folder_pool, "disk", 0, b"later " * 10000)
        return PoolBackend(folder_pool)


class TestSourceOfCopies(DeviceContract):
    """A volume that shares everything with two copies, and its fenced neighbour."""

    FROZEN = "disk@t1"

    take_copy = TestVolume.take_copy

    @pytest.fixture
    def device_backend(self, folder_pool: Pool) -> PoolBackend:
        volumes.create(folder_pool, "disk", MIB)
        put(folder_pool, "disk", 0, b"x" * 100_000)
        device(folder_pool, "disk").discard(0, MIB)
        folder_pool.commit()
        copies.take(folder_pool, ["disk"], name="t0", writable=True)
        copies.take(folder_pool, ["disk"], name="t1")
        return PoolBackend(folder_pool)


# -- what the contract does not ask


@pytest.fixture
def pool() -> Pool:
    pool = Rig().open()
    volumes.create(pool, "disk", ODD)
    return pool


def appended(pool: Pool) -> int:
    return pool.log.lsn


def test_a_large_write_is_one_turn_and_may_be_several_batches(pool: Pool) -> None:
    data = pattern(1, ODD)
    put(pool, "disk", 0, data)
    assert get(pool, "disk") == data
    put(pool, "disk", 100, data[: ODD - 100])
    assert get(pool, "disk") == data[:100] + data[: ODD - 100]


def test_the_last_part_of_a_block(pool: Pool) -> None:
    put(pool, "disk", ODD - 512, pattern(1, 512))
    assert get(pool, "disk", ODD - 1024) == bytes(512) + pattern(1, 512)
    device(pool, "disk").discard(ODD - 512, 512)
    pool.commit()
    assert get(pool, "disk", ODD - 1024) == bytes(1024)
    assert mapped_blocks(pool.state.forest, pool.state.tables[1]) == 0


@pytest.mark.parametrize("offset", [0, 1, 511, BLOCK, ODD - 511, ODD])
def test_nothing_to_write_writes_nothing(pool: Pool, offset: int) -> None:
    before = appended(pool)
    device(pool, "disk").write(offset, memoryview(b""))
    device(pool, "disk").discard(offset, 0)
    assert b"".join(device(pool, "disk").read(offset, 0)) == b""
    pool.commit()
    assert appended(pool) == before


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, BLOCK), (BLOCK - 1, 2), (1, 3 * BLOCK), (0, ODD), (1, ODD - 1), (ODD - 513, 513)],
)
def test_discards_at_edges(pool: Pool, offset: int, length: int) -> None:
    data = pattern(3, ODD)
    put(pool, "disk", 0, data)
    device(pool, "disk").discard(offset, length)
    pool.commit()
    assert get(pool, "disk") == data[:offset] + bytes(length) + data[offset + length :]


def test_a_discard_gives_whole_blocks_back(pool: Pool) -> None:
    put(pool, "disk", 0, pattern(1, ODD))
    table = pool.state.tables[1]
    blocks = mapped_blocks(pool.state.forest, table)
    device(pool, "disk").discard(1, 3 * BLOCK)  # two of them whole
    pool.commit()
    assert mapped_blocks(pool.state.forest, table) == blocks - 2


def test_a_discard_of_64_tib() -> None:
    pool = Rig().open()
    volumes.create(pool, "disk", 64 * TIB)
    ends = (0, 5 * TIB + 1, 64 * TIB - 3)
    for offset in ends:
        put(pool, "disk", offset, b"abc")
    device(pool, "disk").discard(0, 64 * TIB)
    pool.commit()
    assert [get(pool, "disk", offset, 3) for offset in ends] == [bytes(3)] * 3
    assert mapped_blocks(pool.state.forest, pool.state.tables[1]) == 0


def test_many_discards_of_one_turn_are_batches_that_recovery_takes() -> None:
    rig = Rig()
    rig.limits = LIMITS
    pool = rig.open()
    volumes.create(pool, "disk", TIB)
    put(pool, "disk", 0, pattern(1))
    found = device(pool, "disk")
    for n in range(200_000):
        found.discard(n * 2 * BLOCK, BLOCK)
    pool.commit()
    lsn = pool.log.lsn
    pool = rig.kill()
    assert pool.log.lsn == lsn
    assert get(pool, "disk", 0, BLOCK) == bytes(BLOCK)


def test_a_part_of_a_damaged_block_cannot_be_written() -> None:
    """The rest of it would get a good checksum."""
    rig = Rig()
    pool = rig.open()
    volumes.create(pool, "disk", MIB)
    put(pool, "disk", 0, pattern(1, 2 * BLOCK))
    # Slot 1 holds the volume's record, slot 2 the meta of the write.
    rig.platter.flip("segment-0000000000000001", 3 * BLOCK + 9)
    with pytest.raises(Damaged):
        get(pool, "disk", 0, 10)
    with pytest.raises(Damaged):
        device(pool, "disk").write(0, memoryview(b"new"))
    pool.commit()
    assert get(pool, "disk", BLOCK, BLOCK) == pattern(1, 2 * BLOCK)[BLOCK:]
    put(pool, "disk", 0, pattern(2))
    assert get(pool, "disk", 0, BLOCK) == pattern(2)


def test_a_deleted_volume_is_gone_for_those_who_hold_it(pool: Pool) -> None:
    held = device(pool, "disk")
    volumes.delete(pool, "disk")
    for call in (
        lambda: held.size,
        lambda: held.read(0, 1),
        lambda: held.write(0, memoryview(b"x")),
        lambda: held.discard(0, 1),
    ):
        with pytest.raises(NotFound, match="deleted"):
            call()


def test_the_end_moves_with_the_size(pool: Pool) -> None:
    held = device(pool, "disk")
    volumes.resize(pool, "disk", 2 * MIB)
    held.write(2 * MIB - 4, memoryview(b"end!"))
    pool.commit()
    assert get(pool, "disk", 2 * MIB - 5) == b"\0end!"
    volumes.resize(pool, "disk", MIB, shrink=True)
    with pytest.raises(OutOfRange, match="past the end of disk"):
        held.read(MIB, 1)


def test_negative_ranges_are_out_of_range(pool: Pool) -> None:
    held = VolumeDevice(pool, 1)
    for offset, length in ((-1, 1), (0, -1), (-5, 10)):
        with pytest.raises(OutOfRange):
            held.read(offset, length)


# -- copies to compare with


def test_copies_to_compare_with() -> None:
    """Read-only ones of this volume; for a copy, those before it; never a writable one."""
    pool = Rig().open()
    a = volumes.create(pool, "a", MIB)
    volumes.create(pool, "b", MIB)
    copies.take(pool, ["a"], name="one")
    copies.take(pool, ["a", "b"], name="two")
    copies.take(pool, ["a"], name="clone", writable=True)
    copies.take(pool, ["b"], name="other")
    copies.take(pool, ["a@two"], name="of-two")
    names = pool.state.names

    def known(name: str) -> dict[str, str]:
        found = VolumeDevice(pool, names[name]).copies()
        return {copy: pool.state.volumes[id].name for copy, id in found.items()}

    assert known("a") == {"one": "a@one", "two": "a@two"}
    assert known("b") == {"two": "b@two", "other": "b@other"}
    assert known("a@one") == {"one": "a@one"}
    assert known("a@two") == {"one": "a@one", "two": "a@two", "of-two": "a@two@of-two"}
    assert known("a@clone") == {"one": "a@one", "two": "a@two"}
    device = VolumeDevice(pool, a.id)
    gone = device.copies()["one"]
    copies.delete(pool, "one")
    with pytest.raises(NotFound):
        device.changed(gone, 0, BLOCK, 1)


def test_the_default_export() -> None:
    pool = Rig().open()
    volumes.create(pool, "a", MIB)
    assert PoolBackend(pool).attach("", client()).name == "a"
    volumes.create(pool, "b", MIB)
    with pytest.raises(NotFound):
        PoolBackend(pool).attach("", client())
    assert PoolBackend(pool, default="b").attach("", client()).name == "b"
