"""The bytes of the log: pinned by files, and refused without an exception when they are not so."""

from __future__ import annotations

import lzma
import os
from array import array
from pathlib import Path

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.errors import Damaged
from isochrone.store import copies, volumes
from isochrone.store import format as f
from isochrone.store import records as r
from isochrone.store.catalogue import Session
from isochrone.store.check import check_pool
from isochrone.store.pool import Pool
from isochrone.types import BLOCK, MIB, TIB
from isochrone.world.disk import FolderDisk
from tests.store.pools import device, get, open_on, put, settle

GOLDEN = Path(__file__).parents[1] / "golden" / "log-v1"
GOLDEN_POOL = GOLDEN.parent / "pool-v1"
# Set it to write the files anew: only for a new version of the format, in a folder of its own.
REWRITE = os.environ.get("ISOCHRONE_REWRITE_GOLDEN") == "1"

POOL = bytes(range(16))
SEGMENT, SLOT = 7, 33


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 300])
def test_checksums_are_those_of_the_blocks(count: int) -> None:
    data = os.urandom(count * BLOCK + 28)
    expected = [f.checksum(data[28 + n * BLOCK :][:BLOCK]) for n in range(count)]
    for form in (bytes, bytearray, memoryview):
        assert f.checksums(form(data)[28:]) == expected


def segment_header() -> bytes:
    return f.encode_segment_header(POOL, SEGMENT, 1234, 0xF1F2, 1_800_000_000_000_000_001)


def payload() -> list[bytes]:
    return [bytes([n]) * BLOCK for n in (1, 2, 3)]


def batch_meta() -> bytes:
    body = b"\x81\xa1t\xaevolume-deleted"
    return f.encode_meta(
        pool=POOL,
        segment=SEGMENT,
        slot=SLOT,
        first_lsn=1234,
        durable_lsn=1230,
        previous=0xE1E2E3E4E5E6E7E8,
        stamp=1_800_000_000_000_000_002,
        descriptors=[
            f.describe(f.WRITE, 5, 1 << 33, 2, 0),
            f.describe(f.DISCARD, 5, 9, 0xFFFFFFFF, 0),
            f.describe(f.BODY, 0, 0, 0, len(body)),
            f.describe(f.WRITE, 6, 0, 1, 0),
        ],
        sums=array("Q", [f.checksum(block) for block in payload()]),
        bodies=body,
    )


GOLDEN_FILES = {"segment-header.bin": segment_header, "batch.bin": batch_meta}


@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_the_bytes_are_those_of_version_1(name: str) -> None:
    made = GOLDEN_FILES[name]()
    if REWRITE:
        GOLDEN.mkdir(parents=True, exist_ok=True)
        (GOLDEN / name).write_bytes(made)
    assert made == (GOLDEN / name).read_bytes()


def test_the_golden_segment_header_says_what_was_put_in() -> None:
    header = f.decode_segment_header((GOLDEN / "segment-header.bin").read_bytes())
    sum = f.segment_sum((GOLDEN / "segment-header.bin").read_bytes())
    assert header == (1, POOL, SEGMENT, 1234, 0xF1F2, 1_800_000_000_000_000_001, sum)


def test_the_golden_batch_says_what_was_put_in() -> None:
    data = (GOLDEN / "batch.bin").read_bytes()
    header = f.decode_header(data, POOL, SEGMENT, SLOT)
    assert header is not None
    assert (header.first_lsn, header.last_lsn, header.durable_lsn) == (1234, 1237, 1230)
    assert (header.payload_slot, header.end_slot) == (SLOT + 1, SLOT + 4)
    assert (header.previous, header.sum) == (0xE1E2E3E4E5E6E7E8, f.meta_sum(data))
    meta = data[: header.meta_bytes]
    assert f.meta_verifies(meta, header)
    batch = f.decode_batch(meta, header)
    assert batch is not None
    assert batch.descriptors.tolist() == [
        (f.WRITE, 5, 1 << 33, 2, 0),
        (f.DISCARD, 5, 9, 0xFFFFFFFF, 0),
        (f.BODY, 0, 0, 0, 18),
        (f.WRITE, 6, 0, 1, 0),
    ]
    assert batch.sums.tolist() == [f.checksum(block) for block in payload()]
    assert batch.bodies == b"\x81\xa1t\xaevolume-deleted"
    assert batch.first_pointer == f.pointer(SEGMENT, SLOT + 1)


# -- bytes that are not so


def decoded(data: bytes, pool: bytes = POOL, segment: int = SEGMENT, slot: int = SLOT):
    """A batch as recovery takes it, or None."""
    header = f.decode_header(data, pool, segment, slot)
    if header is None:
        return None
    meta = data[: header.meta_bytes]
    return f.decode_batch(meta, header) if f.meta_verifies(meta, header) else None


def test_whole_batches_are_taken() -> None:
    assert decoded(batch_meta()) is not None
    assert f.decode_segment_header(segment_header()) is not None


def test_every_truncation_is_refused() -> None:
    data = batch_meta()
    size = f.HEADER.size + 4 * f.DESCRIPTOR.size + 3 * 8 + 18
    assert all(decoded(data[:length]) is None for length in range(size))
    assert decoded(data[:size]) is not None
    assert all(f.decode_segment_header(segment_header()[:length]) is None for length in range(72))


def test_every_flipped_bit_is_refused() -> None:
    data = bytearray(batch_meta())
    size = f.HEADER.size + 4 * f.DESCRIPTOR.size + 3 * 8 + 18
    for at in range(8 * size):
        data[at // 8] ^= 1 << at % 8
        assert decoded(bytes(data)) is None, at
        data[at // 8] ^= 1 << at % 8
    head = bytearray(segment_header())
    for at in range(8 * 72):
        head[at // 8] ^= 1 << at % 8
        assert f.decode_segment_header(bytes(head)) is None, at
        head[at // 8] ^= 1 << at % 8


@pytest.mark.parametrize(
    "place", [(bytes(16), SEGMENT, SLOT), (POOL, SEGMENT + 1, SLOT), (POOL, SEGMENT, SLOT + 1)]
)
def test_a_batch_of_another_place_is_refused(place) -> None:
    assert decoded(batch_meta(), *place) is None


@given(st.binary(max_size=300))
def test_foreign_bytes_are_refused(data: bytes) -> None:
    assert decoded(data) is None
    assert f.decode_segment_header(data) is None


LENGTHS = st.integers(0, 2**32 - 1) | st.integers(0, 200)


@given(st.tuples(LENGTHS, LENGTHS, LENGTHS), st.integers(0, 2**64 - 1), st.binary(max_size=200))
def test_lengths_that_contradict_each_other_are_refused(lengths, lsn: int, rest: bytes) -> None:
    """Even under a good checksum: an old bug of a writer must not become a crash of a reader."""
    meta_bytes, records, blocks = lengths
    head = f.HEADER.pack(
        b"IBAT", 1, 0, POOL, SEGMENT, SLOT, meta_bytes, records, blocks, lsn, 0, 0, 0, 0
    )
    meta = bytearray((head + rest)[:meta_bytes])
    if len(meta) == meta_bytes and meta_bytes >= f.HEADER.size:
        f.SUM.pack_into(meta, f.SUM_AT, f.checksum(meta))
    batch = decoded(bytes(meta))
    if batch is not None:
        assert len(batch.descriptors) == records > 0
        assert len(batch.sums) == blocks
        assert sum(d["count"] for d in batch.descriptors if d["kind"] == f.WRITE) == blocks
        assert sum(d["body"] for d in batch.descriptors) == len(batch.bodies)


DESCRIPTORS = st.lists(
    st.tuples(st.just(f.WRITE), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1),
              st.integers(0, 3), st.just(0))
    | st.tuples(st.just(f.DISCARD), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1),
                st.integers(0, 2**32 - 1), st.just(0))
    | st.tuples(st.just(f.BODY), st.just(0), st.just(0), st.just(0), st.integers(0, 300)),
    min_size=1,
    max_size=400,
)  # fmt: skip


@given(DESCRIPTORS, st.integers(1, 2**63), st.integers(0, 2**63))
def test_any_batch_comes_back(descriptors, lsn: int, stamp: int) -> None:
    blocks = sum(d[3] for d in descriptors if d[0] == f.WRITE)
    bodies = bytes(sum(d[4] for d in descriptors))
    sums = array("Q", range(blocks))
    meta = f.encode_meta(
        pool=POOL, segment=SEGMENT, slot=SLOT, first_lsn=lsn, durable_lsn=lsn - 1,
        previous=stamp, stamp=stamp,
        descriptors=[f.describe(*d) for d in descriptors], sums=sums, bodies=bodies,
    )  # fmt: skip
    assert len(meta) % BLOCK == 0
    batch = decoded(meta)
    assert batch is not None
    assert batch.descriptors.tolist() == descriptors
    assert batch.sums.tolist() == list(sums)
    assert batch.bodies == bodies
    assert (batch.header.first_lsn, batch.header.stamp) == (lsn, stamp)


def test_a_length_that_would_read_everything_is_refused() -> None:
    head = f.HEADER.pack(
        b"IBAT", 1, 0, POOL, SEGMENT, SLOT, f.META_BYTES_MAX + 1, 1, 0, 1, 0, 0, 0, 0
    )
    assert f.decode_header(head, POOL, SEGMENT, SLOT) is None


# -- names and numbers


def test_segment_names_and_numbers() -> None:
    assert f.segment_name(0x1A) == "segment-000000000000001a"
    for number in (1, 0x1A, 2**40 - 1):
        assert f.segment_number(f.segment_name(number)) == number


@pytest.mark.parametrize(
    "name",
    [
        "segment-1",
        "segment-000000000000001A",
        "segment-0000_0000_00001",
        "segment-+00000000000001",
        "segment-00000000000000zz",
        "segmenT-0000000000000001",
        "segment-0000000000000001.bak",
        "other",
        "",
    ],
)
def test_foreign_names_are_no_segments(name: str) -> None:
    assert f.segment_number(name) is None


@given(st.text(max_size=30))
def test_only_our_own_names_are_segments(name: str) -> None:
    number = f.segment_number(name)
    assert number is None or f.segment_name(number) == name


def test_a_pointer_is_never_zero() -> None:
    assert f.pointer(1, 0) > 0
    assert f.pointer(3, 5) >> f.SLOT_BITS == 3
    assert f.pointer(3, 5) & f.SLOT_MASK == 5
    assert f.SEGMENT_BYTES // BLOCK <= f.SLOT_MASK


# -- a whole pool of version 1


def block(n: int) -> bytes:
    return n.to_bytes(8, "little") * (BLOCK // 8)


def make_golden_pool(path: Path) -> None:
    """Volumes, discards, copies, a group, a moved block; a checkpoint and a tail behind it."""
    disk = FolderDisk(path)
    pool = open_on(disk)
    volumes.create(pool, "alpha", MIB)
    volumes.create(pool, "beta", MIB + 512)
    put(pool, "alpha", 0, block(1) + block(2) + block(3))
    put(pool, "beta", MIB, b"b" * 512)
    copies.take(pool, ["alpha", "beta"], name="before")
    put(pool, "alpha", BLOCK + 100, b"patched")
    pool.record(r.GroupCreated(name="bank", lineage="ab" * 16, volumes=(1,)))
    pool.record(r.SessionOpened(group="bank", peer="cd" * 16))
    pool.record(r.CutPlaced(group="bank", cut=7, stamp=1_800_000_000_000_000_000))
    run = next(pool.state.forest.runs(pool.state.tables[1], 0, 1))
    pool.append_moves([(run.pointer, block(1), run.sums)])
    settle(pool.checkpoint())
    device(pool, "alpha").discard(2 * BLOCK, BLOCK)
    pool.commit()
    copies.take(pool, ["alpha@before"], name="try", writable=True)
    put(pool, "alpha@before@try", 5 * BLOCK, block(9))
    volumes.create(pool, "gamma", 64 * TIB)
    put(pool, "gamma", 64 * TIB - BLOCK, block(10))
    volumes.resize(pool, "beta", 2 * MIB)
    run = next(pool.state.forest.runs(pool.state.tables[1], 0, 1))
    pool.append_moves([(run.pointer, block(1), run.sums)])
    settle(pool.flush())
    pool.abandon()
    disk.close()


def unpack_golden_pool(path: Path) -> dict[str, bytes]:
    for packed in GOLDEN_POOL.iterdir():
        (path / packed.name.removesuffix(".xz")).write_bytes(lzma.decompress(packed.read_bytes()))
    return contents(path)


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != "lock"}


if REWRITE:

    def test_rewrite_the_golden_pool(tmp_path: Path) -> None:
        make_golden_pool(tmp_path)
        GOLDEN_POOL.mkdir(parents=True, exist_ok=True)
        for name, data in contents(tmp_path).items():
            (GOLDEN_POOL / f"{name}.xz").write_bytes(lzma.compress(data))


def check_golden_pool(pool: Pool) -> None:
    alpha = block(1) + block(2) + block(3)
    patched = block(1) + block(2)[:100] + b"patched" + block(2)[107:]
    assert get(pool, "alpha") == patched.ljust(MIB, b"\0")
    assert get(pool, "alpha@before") == alpha.ljust(MIB, b"\0")
    assert get(pool, "alpha@before@try") == (
        (alpha + bytes(2 * BLOCK) + block(9)).ljust(MIB, b"\0")
    )
    beta = bytes(MIB) + b"b" * 512
    assert get(pool, "beta") == beta.ljust(2 * MIB, b"\0")
    assert get(pool, "beta@before") == beta
    assert get(pool, "gamma", 64 * TIB - 2 * BLOCK) == bytes(BLOCK) + block(10)
    assert {e.name: (e.size, e.read_only) for e in pool.state.exports()} == {
        "alpha": (MIB, False),
        "alpha@before": (MIB, True),
        "alpha@before@try": (MIB, False),
        "beta": (2 * MIB, False),
        "beta@before": (MIB + 512, True),
        "gamma": (64 * TIB, False),
    }
    group = pool.state.groups["bank"]
    assert (group.role, group.lineage, group.epoch, group.volumes) == ("primary", "ab" * 16, 1, [1])
    (session,) = group.sessions.values()
    assert (group.cut, session) == (7, Session(whole_lsn=session.whole_lsn))
    assert check_pool(pool) == 7


def test_the_golden_pool_opens_and_is_what_it_was(tmp_path: Path) -> None:
    unpack_golden_pool(tmp_path)
    disk = FolderDisk(tmp_path)
    pool = open_on(disk)
    check_golden_pool(pool)
    assert len(pool.log.forwarding) == 1
    put(pool, "gamma", 0, b"life goes on")
    settle(pool.close())
    pool = open_on(disk)
    assert get(pool, "gamma", 0, 12) == b"life goes on"
    pool.abandon()
    disk.close()


def test_a_pool_made_today_is_what_the_golden_one_is(tmp_path: Path) -> None:
    make_golden_pool(tmp_path)
    disk = FolderDisk(tmp_path)
    pool = open_on(disk)
    check_golden_pool(pool)
    pool.abandon()
    disk.close()


def newer_metadata(path: Path) -> None:
    db = apsw.Connection(str(path / "metadata.sqlite"))
    db.execute("UPDATE setting SET value = 3 WHERE key = 'format'")
    db.close()


def newer_segment(path: Path) -> None:
    file = path / f.segment_name(1)
    data = bytearray(file.read_bytes())
    data[8] = 2
    f.SUM.pack_into(data, f.SEGMENT_SUM_AT, f.checksum(bytes(data[: f.SEGMENT_SUM_AT])))
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (newer_metadata, "metadata format 3; this version knows 2"),
        (newer_segment, "log format 2; this version knows 1"),
    ],
)
def test_a_newer_pool_is_refused_and_stays_as_it_is(tmp_path: Path, change, message: str) -> None:
    unpack_golden_pool(tmp_path)
    change(tmp_path)
    before = contents(tmp_path)
    disk = FolderDisk(tmp_path)
    for _ in range(2):
        with pytest.raises(Damaged, match=message) as e:
            open_on(disk)
        assert "start the version of isochrone that wrote it" in e.value.hint
    disk.close()
    assert contents(tmp_path) == before
