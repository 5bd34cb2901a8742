"""What was synced survives every power cut; the rest may be kept, torn or lost, in all ways."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.sim.disk import Platter, SimDisk
from isochrone.sim.power_cut import SECTOR

SIZE = 8 * SECTOR

writes = st.tuples(st.just("write"), st.integers(0, SIZE), st.integers(1, 3 * SECTOR))
truncates = st.tuples(st.just("truncate"), st.integers(0, SIZE), st.just(0))
syncs = st.tuples(st.just("sync"), st.just(0), st.just(0))
histories = st.lists(st.one_of(writes, writes, truncates, syncs), max_size=25)


def apply(image: bytearray, step: tuple[str, int, int], fill: int) -> None:
    """The simplest model of a file."""
    call, offset, length = step
    if call == "write":
        image.extend(bytes(max(0, offset + length - len(image))))
        image[offset : offset + length] = bytes([fill]) * length
    elif call == "truncate":
        del image[offset:]
        image.extend(bytes(offset - len(image)))


@settings(deadline=None)
@given(histories, st.integers(0, 2**32))
def test_each_sector_is_what_some_unsynced_history_left(history, seed: int) -> None:
    platter = Platter(Random(seed))
    disk = SimDisk(platter)
    file = disk.create("a")
    disk.sync_names()
    model = bytearray()
    synced = bytearray()
    allowed: list[set[int]] = []  # per byte: what may be there after a cut
    for fill, step in enumerate(history, 1):
        call, offset, length = step
        if call == "write":
            file.write_at([bytes([fill]) * length], offset)
        elif call == "truncate":
            file.truncate(offset)
        else:
            file.sync()
        apply(model, step, fill)
        if call == "sync":
            synced, allowed = bytearray(model), []
        top = max(len(model), len(synced), len(allowed))
        for at in range(len(allowed), top):
            allowed.append({synced[at] if at < len(synced) else 0})
        for at in range(len(model)):
            allowed[at].add(model[at])
        if call == "truncate":
            for at in range(offset, top):
                allowed[at].add(0)
    assert file.read_at(1 << 20, 0) == model
    platter.power_cut()
    found = SimDisk(platter).open("a").read_at(1 << 20, 0)
    assert len(found) <= max(len(allowed), len(synced))
    for at, byte in enumerate(found):
        assert byte in allowed[at]
    if not history or history[-1][0] == "sync":
        assert found == synced


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=2000), max_size=10), st.integers(0, 2**32))
def test_synced_data_survives_whatever_follows_elsewhere(pieces, seed: int) -> None:
    random = Random(seed)
    platter = Platter(random)
    disk = SimDisk(platter)
    file = disk.create("a")
    disk.sync_names()
    safe = bytearray()
    for piece in pieces:
        file.write_at([piece], len(safe))
        safe += piece
        if random.random() < 0.5:
            file.sync()
            for _ in range(3):
                file.write_at([b"unsynced" * 100], len(safe) + random.randrange(3000))
            platter.power_cut()
            disk = SimDisk(platter)
            file = disk.open("a")
            assert file.read_at(len(safe), 0) == safe
            file.truncate(len(safe))
            file.sync()


def images(prepare, cuts: int = 400) -> set[bytes | None]:
    """All that is seen after many power cuts of the same history."""
    found: set[bytes | None] = set()
    for seed in range(cuts):
        platter = Platter(Random(seed))
        prepare(SimDisk(platter))
        platter.power_cut()
        disk = SimDisk(platter)
        found.add(disk.open("a").read_at(1 << 20, 0) if "a" in disk.names() else None)
    return found


def test_all_fates_of_two_unsynced_writes_happen() -> None:
    def prepare(disk: SimDisk) -> None:
        file = disk.create("a")
        file.write_at([b"."], 2 * SECTOR - 1)
        file.write_at([b"." * 2 * SECTOR], 0)
        file.sync()
        disk.sync_names()
        file.write_at([b"1" * SECTOR * 2], 0)
        file.write_at([b"2" * SECTOR * 2], 0)

    seen = {(image[0:1], image[SECTOR : SECTOR + 1]) for image in images(prepare) if image}
    assert seen == {(bytes([a]), bytes([b])) for a in b".12" for b in b".12"}


def test_a_new_size_may_go_ahead_of_its_data() -> None:
    def prepare(disk: SimDisk) -> None:
        file = disk.create("a")
        disk.sync_names()
        file.write_at([b"x" * 4 * SECTOR], 0)

    found = images(prepare)
    assert b"" in found
    assert b"x" * 4 * SECTOR in found
    assert bytes(4 * SECTOR) in found
    assert b"x" * SECTOR in found


def test_an_unsynced_name_may_vanish_with_synced_bytes() -> None:
    def prepare(disk: SimDisk) -> None:
        file = disk.create("a")
        file.write_at([b"x"], 0)
        file.sync()

    assert images(prepare) == {None, b"x"}


def test_a_removed_name_may_come_back() -> None:
    def prepare(disk: SimDisk) -> None:
        file = disk.create("a")
        file.write_at([b"old"], 0)
        file.sync()
        disk.sync_names()
        disk.remove("a")
        file = disk.create("a")
        file.write_at([b"new"], 0)
        file.sync()

    assert images(prepare) == {None, b"old", b"new"}


def test_an_unsynced_truncation_may_be_undone() -> None:
    def prepare(disk: SimDisk) -> None:
        file = disk.create("a")
        file.write_at([b"abc"], 0)
        file.sync()
        disk.sync_names()
        file.truncate(1)

    assert images(prepare) == {b"abc", b"a"}


def test_what_a_failed_sync_lost_is_lost_even_after_a_good_one() -> None:
    def prepare(disk: SimDisk) -> None:
        file = disk.create("a")
        disk.sync_names()
        faults = disk.enter("x").faults
        file.write_at([b"1"], 0)
        faults.fail_at = 1
        try:
            file.sync()
        except OSError:
            file.write_at([b"2"], 1)
            file.sync()
        assert file.read_at(9, 0) == b"12"

    assert images(prepare) == {b"12", b"\x002"}


def test_cuts_over_many_files_know_their_common_order() -> None:
    """Some cuts keep everything up to one instant, over all files."""
    common = 0
    for seed in range(200):
        platter = Platter(Random(seed))
        disk = SimDisk(platter)
        files = [disk.create(name) for name in "ab"]
        disk.sync_names()
        for n in range(10):
            files[n % 2].write_at([bytes([n + 1])], n)
        platter.power_cut()
        disk = SimDisk(platter)
        found = {n for name in "ab" for n in disk.open(name).read_at(99, 0) if n}
        common += 0 < len(found) < 10 and found == set(range(1, len(found) + 1))
    assert common > 20
