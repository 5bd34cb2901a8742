"""Where the log ends, what is cut off, and what is refused.

Each case is made by hand here; test_pool.py asks the same of whole pools, over many more crashes.
"""

from __future__ import annotations

import errno
from array import array
from random import Random
from typing import Any, Final

import pytest

from isochrone.errors import Damaged
from isochrone.sim.disk import Platter, SimDisk, SimFile
from isochrone.sim.power_cut import Inode
from isochrone.store.format import VERSION, WRITE, Batch, checksum, describe, segment_name
from isochrone.store.log import Log, segments
from isochrone.store.metadata import Position
from isochrone.store.recover import Tail, look_at_tail, read_tail
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
            first_lsns=tail.first_lsns, last_sum=tail.last_sum, segment_bytes=SEGMENT,
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


def sum_of(rig: LogRig, lsn: int) -> int:
    """Checksum of the batch that ends with a record."""
    return next(b.header.sum for b in rig.log.batches(1, lsn) if b.header.last_lsn == lsn)


def batches(tail: Tail) -> list[Batch]:
    return [batch for section in tail.sections for batch in section.batches()]


def lsns(tail: Tail) -> list[int]:
    return [lsn for b in batches(tail) for lsn in range(b.header.first_lsn, b.header.last_lsn + 1)]


# -- good logs


def test_an_empty_disk(rig: LogRig) -> None:
    tail = rig.recover()
    assert (tail.lsn, tail.segment, batches(tail), tail.first_lsns) == (0, 0, [], {})
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
    positions = [Position(0, 0, 16, 0)]
    for n in range(30):
        rig.append(n)
        positions.append(Position(n + 1, *rig.log.position, rig.log.last_sum))
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
    assert [n for b in batches(tail) for n in b.descriptors["block"].tolist()] == [0, 1, 2, 20]


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
    start = Position(7, 2, slot, rig.log.last_sum)
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
    assert [b.descriptors["block"].tolist() for b in batches(tail)][6] == [7, 8, 9]


# -- bytes that verify at their place, and do not belong to this history


def blocks_of(tail: Tail) -> list[int]:
    return [n for batch in batches(tail) for n in batch.descriptors["block"].tolist()]


def image(rig: LogRig, segment: int) -> bytes:
    return bytes(rig.platter.names[segment_name(segment)].data)


def put_back(rig: LogRig, segment: int, data: bytes, slot: int = 0) -> None:
    """Old bytes at their old place, as a disk may leave them that lost what replaced them."""
    inode = rig.platter.names.setdefault(segment_name(segment), Inode())
    at = slot * BLOCK
    inode.data.extend(bytes(max(0, at + len(data) - len(inode.data))))
    inode.data[at : at + len(data)] = data
    inode.size = len(inode.data)


def test_a_refused_batch_is_not_joined_with_what_came_after_it(
    rig: LogRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power cut kept the failed append and the batch after its successor, not that one."""
    for n in range(3):
        rig.append(n)
    rig.sync()
    slot = rig.log.position[1]
    write = SimFile.write_at

    def written_and_refused(*call: Any) -> None:
        write(*call)
        raise OSError(errno.EIO, "the answer was lost")

    monkeypatch.setattr(SimFile, "write_at", written_and_refused)
    with pytest.raises(OSError):
        rig.append(66)
    monkeypatch.undo()
    refused = image(rig, 1)[slot * BLOCK :]
    assert len(refused) == 2 * BLOCK
    rig.append(7)
    rig.append(8)
    put_back(rig, 1, refused, slot)
    assert blocks_of(rig.recover()) in ([0, 1, 2], [0, 1, 2, 66])


def test_old_batches_behind_new_ones_in_a_file_used_again_are_not_followed(rig: LogRig) -> None:
    """Same pool, segment, slot and lsn: only the chain tells the two lives apart."""
    for n in range(7):
        rig.append(n)
    rig.sync()
    for n in range(7, 12):
        rig.append(n)
    old = image(rig, 2)
    del rig.platter.names[segment_name(2)]  # a power cut took its name back
    assert rig.recover().lsn == 7
    rig.append(70)
    put_back(rig, 2, old[3 * BLOCK :], 3)
    assert blocks_of(rig.recover()) == [*range(7), 70]


def test_a_whole_segment_of_an_earlier_life_is_not_followed(rig: LogRig) -> None:
    for n in range(7):
        rig.append(n)
    rig.sync()
    for n in range(7, 20):
        rig.append(n)
    old = image(rig, 3)
    del rig.platter.names[segment_name(2)]
    del rig.platter.names[segment_name(3)]
    assert rig.recover().lsn == 7
    for n in range(7):
        rig.append(70 + n)
    assert rig.log.position == (2, 15)
    put_back(rig, 3, old)
    assert blocks_of(rig.recover()) == [*range(7), *range(70, 77)]
    assert segments(rig.disk) == [1, 2]


def test_the_first_segment_of_a_pool_follows_nothing(rig: LogRig) -> None:
    """Also not one whose first records were cut off with their segment."""
    for n in range(9):
        rig.append(n)
    header = bytearray(image(rig, 2))
    put_back(rig, 2, bytes(header))
    del rig.platter.names[segment_name(1)]
    assert blocks_of(rig.recover()) == []


def test_what_follows_a_checkpoint_continues_its_last_batch(rig: LogRig) -> None:
    for n in range(5):
        rig.append(n)
    rig.sync()
    start = Position(3, 1, 7, sum_of(rig, 3))
    assert lsns(rig.recover(start)) == [4, 5]
    rig.append(5)
    with pytest.raises(Damaged, match="broken after record 3"):
        rig.recover(Position(3, 1, 7, sum_of(rig, 2)))


@pytest.mark.parametrize("torn", range(1, 8))
def test_a_life_after_a_torn_end_continues_what_was_left(rig: LogRig, torn: int) -> None:
    """The chain goes on from the batch before the torn one, also through an empty segment."""
    for n in range(7):
        rig.append(n)
    rig.platter.flip(segment_name(1), 2 * torn * BLOCK)  # a payload
    assert rig.recover().lsn == torn - 1
    for life in range(3):
        rig.append(70 + life)
        rig.sync()
        assert blocks_of(rig.recover()) == [*range(torn - 1), *range(70, 71 + life)]


# -- damage


def durable_log(rig: LogRig) -> None:
    """Twenty records of which 18 are known to be durable from what was written later."""
    for n in range(18):
        rig.append(n)
    rig.sync()
    rig.append(18)
    rig.append(19)


@pytest.mark.parametrize("lsn", range(1, 19))
@pytest.mark.parametrize("byte", [0, 24, 50, 65, 72, 90, 110])
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
    start = Position(20, *rig.log.position, rig.log.last_sum)
    del rig.platter.names[segment_name(3)]
    before = rig.bytes()
    with pytest.raises(Damaged, match="segment 3 of the log is missing"):
        rig.recover(start)
    assert rig.bytes() == before


def test_a_checkpoint_vouches_for_what_it_holds(rig: LogRig) -> None:
    """Damage before it is no matter for recovery; damage after it is judged as ever."""
    durable_log(rig)
    start = Position(18, 3, 9, sum_of(rig, 18))
    rig.platter.flip(segment_name(1), BLOCK + 90)
    assert lsns(rig.recover(start)) == [19, 20]


@pytest.mark.parametrize("field", [16, 32, 40, 48, 57, 65])
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
    data[64:72] = checksum(bytes(data[:64])).to_bytes(8, "little")


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
        blocks = [block for b in batches(tail) for block in b.descriptors["block"].tolist()]
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
        blocks = [block for b in batches(tail) for block in b.descriptors["block"].tolist()]
        assert len(blocks) >= synced
        assert blocks == model[: len(blocks)]
        for batch in batches(tail):
            place = batch.first_pointer
            for n in batch.descriptors["block"].tolist():
                assert rig.log.read(place, array("Q", [checksum(pattern(n))])) == pattern(n)
                place += 1
        model = blocks


# -- what is known from elsewhere


@pytest.mark.parametrize("durable", [0, 18, 19, 20])
def test_the_loss_of_what_was_flushed_last_is_damage_if_somebody_knows(
    rig: LogRig, durable: int
) -> None:
    """The log itself says so one batch later only; here no batch came."""
    for n in range(20):
        rig.append(n)
    rig.sync()
    rig.platter.flip(segment_name(3), 11 * BLOCK + 90)  # the last batch
    before = rig.bytes()
    rig.platter.kill()
    if durable < 20:
        assert read_tail(SimDisk(rig.platter), IDENTITY, None, durable).lsn == 19
    else:
        with pytest.raises(Damaged, match=r"broken after record 19 .* record 20 was durable"):
            read_tail(SimDisk(rig.platter), IDENTITY, None, durable)
        assert rig.bytes() == before


def test_a_missing_newest_segment_is_damage_if_somebody_knows(rig: LogRig) -> None:
    durable_log(rig)
    del rig.platter.names[segment_name(3)]
    rig.platter.kill()
    with pytest.raises(Damaged, match="record 18 was durable"):
        read_tail(SimDisk(rig.platter), IDENTITY, None, 18)
    rig.platter.kill()
    assert read_tail(SimDisk(rig.platter), IDENTITY, None).lsn == 14


def test_exchanged_files_are_refused_and_none_is_removed(rig: LogRig) -> None:
    """A file under a new number was used before, and its old name is gone; else it is a mix-up."""
    durable_log(rig)
    names = rig.platter.names
    one, three = segment_name(1), segment_name(3)
    names[one], names[three] = names[three], names[one]
    before = rig.bytes()
    with pytest.raises(Damaged, match="segment 1 of the log holds what belongs into segment 3"):
        rig.recover()
    assert rig.bytes() == before


def test_a_look_changes_nothing(rig: LogRig) -> None:
    durable_log(rig)
    rig.platter.flip(segment_name(3), 11 * BLOCK + 90)
    rig.platter.kill()
    before = rig.bytes()
    assert look_at_tail(SimDisk(rig.platter), IDENTITY, None).lsn == 19
    assert rig.bytes() == before
