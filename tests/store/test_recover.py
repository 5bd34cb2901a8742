"""Where the log ends, what is cut off, and what is refused.

Each case is made by hand here; test_pool.py asks the same of whole pools, over many more crashes.
"""

from __future__ import annotations

from array import array
from random import Random
from typing import Final

import pytest

from isochrone.errors import Damaged
from isochrone.sim.disk import Platter, SimDisk
from isochrone.store.format import VERSION, WRITE, checksum, describe, segment_name
from isochrone.store.log import Log, segments
from isochrone.store.metadata import Position
from isochrone.store.recover import Tail, read_tail
from isochrone.types import BLOCK
from tests.store.pools import Clock, pattern

POOL: Final = "00112233445566778899aabbccddeeff"
IDENTITY: Final = bytes.fromhex(POOL)
SEGMENT: Final = 16 * BLOCK


class LogRig:
    """A platter and the log on it."""

    def __init__(self, seed: object = 0) -> None:
        self.platter = Platter(Random(f"recover {seed}"))
        self.disk = SimDisk(self.platter)
        self.log = self.open(Tail())

    def open(self, tail: Tail) -> Log:
        return Log(
            self.disk, Clock(), POOL, lsn=tail.lsn, segment=tail.segment,
            first_lsns=tail.first_lsns, segment_bytes=SEGMENT,
        )  # fmt: skip

    def append(self, *numbers: int) -> None:
        blocks = [pattern(n) for n in numbers]
        descriptors = [describe(WRITE, 1, n, 1, 0) for n in numbers]
        self.log.append(descriptors, array("Q", map(checksum, blocks)), b"", blocks)

    def sync(self) -> None:
        ticket = self.log.begin_sync()
        ticket.run()
        self.log.end_sync(ticket)

    def recover(self, start: Position | None = None) -> Tail:
        """What the next process finds; it also goes on with the log."""
        if self.platter.holder is not None:
            self.platter.kill()
        self.disk = SimDisk(self.platter)
        tail = read_tail(self.disk, IDENTITY, start)
        self.log = self.open(tail)
        return tail

    def bytes(self) -> dict[str, bytes]:
        return {
            name: bytes(inode.data).ljust(inode.size, b"\0")
            for name, inode in self.platter.names.items()
        }


@pytest.fixture
def rig() -> LogRig:
    return LogRig()


def lsns(tail: Tail) -> list[int]:
    return [lsn for b in tail.batches for lsn in range(b.header.first_lsn, b.header.last_lsn + 1)]


# -- good logs


def test_an_empty_disk(rig: LogRig) -> None:
    tail = rig.recover()
    assert (tail.lsn, tail.segment, tail.batches, tail.first_lsns) == (0, 0, [], {})
    rig.append(1)
    assert lsns(rig.recover()) == [1]


def test_all_that_was_written_is_found(rig: LogRig) -> None:
    for n in range(0, 40, 2):
        rig.append(n, n + 1)
    before = rig.bytes()
    tail = rig.recover()
    assert lsns(tail) == list(range(1, 41))
    assert (tail.lsn, tail.segment, tail.discarded_bytes) == (40, 4, 0)
    assert tail.first_lsns == {1: 1, 2: 11, 3: 21, 4: 31}
    assert rig.bytes() == before


def test_the_log_goes_on_in_a_new_segment(rig: LogRig) -> None:
    rig.append(1)
    for life in range(5):
        tail = rig.recover()
        assert lsns(tail) == list(range(1, life + 2))
        rig.append(100 + life)
        assert rig.log.position[0] == tail.segment + 1
    assert segments(rig.disk) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("at", range(31))
def test_replay_starts_where_the_checkpoint_ends(rig: LogRig, at: int) -> None:
    """Also at the very end of a segment, and before the first one."""
    positions = [Position(0, 0, 16)]
    for n in range(30):
        rig.append(n)
        positions.append(Position(n + 1, *rig.log.position))
    tail = rig.recover(positions[at])
    assert lsns(tail) == list(range(at + 1, 31))
    assert tail.lsn == 30
    assert min(tail.first_lsns) == 1  # older segments are still there to be read


def test_a_killed_process_loses_nothing_later(rig: LogRig) -> None:
    """What recovery has found is durable, though the dead process had not synced it."""
    for n in range(20):
        rig.append(n)
    assert lsns(rig.recover()) == list(range(1, 21))
    rig.platter.power_cut(Random(1))
    assert lsns(rig.recover()) == list(range(1, 21))


# -- torn ends


@pytest.mark.parametrize("sector", range(4 * BLOCK // 512))
@pytest.mark.parametrize("zeros", [False, True])
def test_a_batch_torn_at_any_sector_ends_the_log(rig: LogRig, sector: int, zeros: bool) -> None:
    """Cut short there, or with zeros from there on: the size went ahead of the data."""
    for n in range(3):
        rig.append(n)
    rig.sync()
    at = rig.log.position[1] * BLOCK
    rig.append(10, 11, 12)  # one slot of meta, three of payload
    inode = rig.platter.names[segment_name(1)]
    assert len(inode.data) == at + 4 * BLOCK
    del inode.data[at + sector * 512 :]
    if zeros:
        inode.data.extend(bytes(at + 4 * BLOCK - len(inode.data)))
    inode.size = len(inode.data)
    tail = rig.recover()
    assert lsns(tail) == [1, 2, 3]
    assert inode.size == at
    rig.append(20)
    tail = rig.recover()
    assert [n for b in tail.batches for n in b.descriptors["block"].tolist()] == [0, 1, 2, 20]


def test_batches_behind_a_torn_one_are_cut_off_too(rig: LogRig) -> None:
    """A disk writes its cache in any order: what follows a hole is not a prefix."""
    rig.append(0)
    rig.sync()
    for n in range(1, 20):
        rig.append(n)
    rig.platter.flip(segment_name(1), 6 * BLOCK)  # payload of lsn 3
    tail = rig.recover()
    assert lsns(tail) == [1, 2]
    assert tail.segment == 1
    assert tail.discarded_bytes == (15 - 5 + 15 + 13 - 0) * BLOCK
    assert segments(rig.disk) == [1]
    rig.append(30)
    rig.append(31)
    assert lsns(rig.recover()) == [1, 2, 3, 4]


def test_a_torn_first_batch_leaves_an_empty_log(rig: LogRig) -> None:
    rig.append(1, 2)
    rig.platter.flip(segment_name(1), BLOCK + 90)
    tail = rig.recover()
    assert (lsns(tail), tail.lsn) == ([], 0)
    rig.append(3)
    assert lsns(rig.recover()) == [1]


def test_a_segment_without_header_was_never_durable(rig: LogRig) -> None:
    for n in range(7):
        rig.append(n)
    rig.sync()
    for n in range(7, 9):
        rig.append(n)
    inode = rig.platter.names[segment_name(2)]
    inode.data[:BLOCK] = bytes(BLOCK)
    assert lsns(rig.recover()) == list(range(1, 8))
    assert segments(rig.disk) == [1]


@pytest.mark.parametrize("slot", [1, 15, 16])
def test_a_checkpoint_may_point_at_a_segment_that_vanished_empty(rig: LogRig, slot: int) -> None:
    """Made, its first append failed; the checkpoint came; its name was never synced."""
    for n in range(7):
        rig.append(n)
    rig.sync()
    start = Position(7, 2, slot)
    if slot == 1:
        assert rig.recover(start).lsn == 7
        rig.append(7)
        assert lsns(rig.recover(start)) == [8]
    else:
        with pytest.raises(Damaged, match="segment 2 of the log is missing"):
            rig.recover(start)


# -- what a failed append leaves


def test_a_failed_append_is_not_followed(rig: LogRig) -> None:
    """Its intact meta at the end of a segment, the next batch in the segment after."""
    for n in range(6):
        rig.append(n)
    rig.platter.capacity = 14 * BLOCK
    with pytest.raises(OSError):
        rig.append(66)
    rig.platter.capacity = None
    rig.append(7, 8, 9)
    rig.append(10)
    rig.sync()
    rig.append(11)
    tail = rig.recover()
    assert lsns(tail) == list(range(1, 12))
    assert [b.descriptors["block"].tolist() for b in tail.batches][6] == [7, 8, 9]


# -- damage


def durable_log(rig: LogRig) -> None:
    """Twenty records of which 18 are known to be durable from what was written later."""
    for n in range(18):
        rig.append(n)
    rig.sync()
    rig.append(18)
    rig.append(19)


@pytest.mark.parametrize("lsn", range(1, 19))
@pytest.mark.parametrize("byte", [0, 24, 50, 72, 90, 110])
def test_damage_to_durable_records_is_refused(rig: LogRig, lsn: int, byte: int) -> None:
    durable_log(rig)
    segment, at = divmod(lsn - 1, 7)
    rig.platter.flip(segment_name(segment + 1), (1 + 2 * at) * BLOCK + byte)
    before = rig.bytes()
    with pytest.raises(Damaged, match=rf"broken after record {lsn - 1} .* record 18") as e:
        rig.recover()
    assert "nothing was changed" in e.value.hint
    assert rig.bytes() == before


@pytest.mark.parametrize("lsn", [19, 20])
def test_the_same_damage_to_later_records_is_the_end(rig: LogRig, lsn: int) -> None:
    durable_log(rig)
    at = (lsn - 1) % 7
    rig.platter.flip(segment_name(3), (1 + 2 * at) * BLOCK + 90)
    if lsn == 20:
        assert rig.recover().lsn == 19
    else:
        assert rig.recover().lsn == 18


def test_rot_in_durable_payload_does_not_cost_the_rest(rig: LogRig) -> None:
    """It is found when the block is read, and named; the log after it is good."""
    durable_log(rig)
    rig.platter.flip(segment_name(1), 4 * BLOCK + 5)
    tail = rig.recover()
    assert tail.lsn == 20
    with pytest.raises(Damaged, match="slot 4 of segment 1"):
        rig.log.read(1 << 24 | 4, array("Q", [checksum(pattern(1))]))


@pytest.mark.parametrize("number", [1, 2])
def test_a_missing_durable_segment_is_refused(rig: LogRig, number: int) -> None:
    durable_log(rig)
    del rig.platter.names[segment_name(number)]
    before = rig.bytes()
    with pytest.raises(Damaged):
        rig.recover()
    assert rig.bytes() == before


def test_a_missing_last_segment_with_a_checkpoint_in_it(rig: LogRig) -> None:
    durable_log(rig)
    start = Position(20, *rig.log.position)
    del rig.platter.names[segment_name(3)]
    before = rig.bytes()
    with pytest.raises(Damaged, match="segment 3 of the log is missing"):
        rig.recover(start)
    assert rig.bytes() == before


def test_a_checkpoint_vouches_for_what_it_holds(rig: LogRig) -> None:
    """Damage before it is no matter for recovery; damage after it is judged as ever."""
    durable_log(rig)
    start = Position(18, 3, 9)
    rig.platter.flip(segment_name(1), BLOCK + 90)
    assert lsns(rig.recover(start)) == [19, 20]


@pytest.mark.parametrize("field", [16, 32, 40, 57])
def test_a_durable_segment_with_a_broken_header_is_refused(rig: LogRig, field: int) -> None:
    durable_log(rig)
    rig.platter.flip(segment_name(2), field)
    before = rig.bytes()
    with pytest.raises(Damaged):
        rig.recover()
    assert rig.bytes() == before


def rewritten_header(rig: LogRig, number: int, at: int, value: bytes) -> None:
    """A header whose checksum is good, as another pool or version would write it."""
    data = rig.platter.names[segment_name(number)].data
    data[at : at + len(value)] = value
    data[56:64] = checksum(bytes(data[:56])).to_bytes(8, "little")


def test_a_segment_of_another_pool_is_refused(rig: LogRig) -> None:
    durable_log(rig)
    rewritten_header(rig, 2, 16, bytes(16))
    before = rig.bytes()
    with pytest.raises(Damaged, match="segment 2 belongs to another pool"):
        rig.recover()
    assert rig.bytes() == before


def test_a_segment_under_another_name_is_refused(rig: LogRig) -> None:
    durable_log(rig)
    rig.platter.names[segment_name(4)] = rig.platter.names.pop(segment_name(2))
    before = rig.bytes()
    with pytest.raises(Damaged):
        rig.recover()
    assert rig.bytes() == before


def test_a_newer_format_is_refused_with_both_versions(rig: LogRig) -> None:
    durable_log(rig)
    rewritten_header(rig, 3, 8, (VERSION + 1).to_bytes(2, "little"))
    before = rig.bytes()
    with pytest.raises(Damaged, match="segment 3 has log format 2; this version knows 1") as e:
        rig.recover()
    assert "version of isochrone that wrote it" in e.value.hint
    assert rig.bytes() == before


# -- crashes in the recovery itself


def broken_log(seed: object) -> LogRig:
    rig = LogRig(seed)
    for n in range(18):
        rig.append(n)
    rig.sync()
    for n in range(18, 50):
        rig.append(n)
    rig.platter.flip(segment_name(4), 2 * BLOCK)  # payload of lsn 22
    return rig


def crashing_recovery(rig: LogRig, call: int) -> bool:
    """Recover, but from one call to the disk on nothing reaches it; whether it came so far."""
    faults = rig.platter.faults
    faults.fail_at, faults.fail_for_ever = call, True
    try:
        read_tail(SimDisk(rig.platter), IDENTITY, None)
    except OSError:
        return True
    finally:
        faults.fail_at, faults.fail_for_ever = 0, False
    return False


@pytest.mark.parametrize("power", [False, True])
def test_a_crash_at_any_call_of_recovery_changes_nothing(power: bool) -> None:
    """However often: the same records, and none of those that were cut off comes back."""
    random = Random(1)
    rig = broken_log("calls")
    start = rig.platter.calls
    rig.platter.kill()
    read_tail(SimDisk(rig.platter), IDENTITY, None)
    calls = rig.platter.calls - start
    for n in range(1, calls + 1):
        rig = broken_log(n)
        for time in range(2):
            rig.platter.kill()
            assert crashing_recovery(rig, n) or time == 1  # the second has less to do
            if power:
                rig.platter.power_cut(random)
        tail = rig.recover()
        assert 18 <= tail.lsn <= 21, n
        assert power or tail.lsn == 21
        assert lsns(tail) == list(range(1, tail.lsn + 1))
        last = tail.lsn
        for more in range(5):
            rig.append(1000 + more)
        rig.sync()
        rig.platter.power_cut(random)
        tail = rig.recover()
        assert tail.lsn == last + 5
        blocks = [block for b in tail.batches for block in b.descriptors["block"].tolist()]
        assert blocks == [*range(last), *range(1000, 1005)]


@pytest.mark.parametrize("seed", range(150))
def test_after_a_power_cut_the_log_is_a_prefix_with_all_that_was_synced(seed: int) -> None:
    """Life after life, each ended by a cut at some moment; recovery itself may be cut too."""
    random = Random(seed)
    rig = LogRig(seed)
    model: list[int] = []
    for life in range(4):
        synced = len(model)
        for n in range(random.randrange(30)):
            numbers = [life * 10_000 + n * 10 + m for m in range(random.choice((1, 1, 2, 5)))]
            rig.append(*numbers)
            model += numbers
            if random.random() < 0.15:
                rig.sync()
                synced = len(model)
        rig.platter.power_cut(random)
        if random.random() < 0.5:
            crashing_recovery(rig, random.randrange(1, 40))
            rig.platter.power_cut(random)
        tail = rig.recover()
        blocks = [block for b in tail.batches for block in b.descriptors["block"].tolist()]
        assert len(blocks) >= synced
        assert blocks == model[: len(blocks)]
        for batch in tail.batches:
            place = batch.first_pointer
            for n in batch.descriptors["block"].tolist():
                assert rig.log.read(place, array("Q", [checksum(pattern(n))])) == pattern(n)
                place += 1
        model = blocks
