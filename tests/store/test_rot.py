"""Damage to the files of a real pool: it is refused, exactly where it is, and never shown.

How many random flips is ISOCHRONE_FLIPS; `bench/rot.py` makes them by the thousand.
"""

from __future__ import annotations

import os
from typing import Final

import apsw
import pytest

from isochrone.store.format import decode_segment_header, segment_name
from isochrone.store.log import read_batch
from isochrone.types import BLOCK
from isochrone.world.disk import METADATA_NAME, FolderFile
from tests.store.rot import Template, flip, flips, judge, make

FLIPS: Final = int(os.environ.get("ISOCHRONE_FLIPS", "160"))

Files = dict[str, bytearray]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    return make(tmp_path_factory.mktemp("rot") / "pool")


def segments(template: Template) -> list[str]:
    return sorted(name for name in template.files if name.startswith("segment-"))


def readers(template: Template, segment: int, *slots: int) -> set[tuple[str, int]]:
    """Blocks of exports that lie in a segment; in any of its slots if none is named."""
    return {
        at
        for at, (s, slot) in template.places.items()
        if s == segment and (not slots or slot in slots)
    }


def old_segment(template: Template) -> int:
    """The segment before the checkpoint that most blocks lie in."""
    found = [segment for segment, _ in template.places.values() if segment < template.checkpoint[0]]
    return max(found, key=found.count)


def test_nothing_is_wrong_with_it(template: Template) -> None:
    assert judge(template, lambda files: None) == ("nothing", set())


def test_a_payload_block_costs_its_readers_that_block(template: Template) -> None:
    """With the copies that share it, whether it was moved or not, and nobody else."""
    places = sorted(set(template.places.values()))
    for segment, slot in places[:: len(places) // 25 + 1]:
        damage = flip(segment_name(segment), 8 * (slot * BLOCK + 1234) + 3)
        word, refused = judge(template, damage)
        if word == "unflushed lost":
            assert template.blocks.keys() != template.unsafe.keys()
            continue
        assert (word, refused) == ("read errors", readers(template, segment, slot))


def tail_batch(template: Template) -> tuple[str, int, int, int]:
    """Name, slot, records and bodies of a durable batch behind the checkpoint."""
    segment, slot = template.checkpoint
    name = segment_name(segment)
    if name not in template.files or slot * BLOCK >= len(template.files[name]):
        segment, slot = segment + 1, 1
        name = segment_name(segment)
    header = decode_segment_header(template.files[name])
    assert header is not None
    template.restore()
    file = FolderFile(template.path / name, os.O_RDWR)
    batch = read_batch(file, header.pool, segment, slot)
    file.close()
    assert batch is not None
    return name, slot, batch.header.records, batch.header.meta_bytes


@pytest.mark.parametrize("byte", [0, 5, 20, 26, 34, 38, 42, 46, 50, 58, 66, 74, 82, 90, 100, 114])
def test_the_meta_of_a_durable_batch_is_never_skipped(template: Template, byte: int) -> None:
    """Each field of the header, the descriptor, the checksum of the block."""
    name, slot, _, meta_bytes = tail_batch(template)
    assert byte < meta_bytes
    word, _ = judge(template, flip(name, 8 * (slot * BLOCK + byte)))
    assert word == "refused"


@pytest.mark.parametrize("byte", [0, 8, 20, 36, 44, 50, 60, 70])
def test_the_header_of_a_segment(template: Template, byte: int) -> None:
    """Of one with a durable tail: refused. Of an older one: all blocks are still found."""
    last = segments(template)[-1]
    assert int(last[8:], 16) > template.checkpoint[0]
    assert judge(template, flip(last, 8 * byte))[0] == "refused"
    word, _ = judge(template, flip(segment_name(old_segment(template)), 8 * byte))
    assert word in ("nothing", "refused")


def test_a_missing_segment_costs_what_lay_in_it(template: Template) -> None:
    old = old_segment(template)
    word, refused = judge(template, lambda files: files.pop(segment_name(old)) and None)
    assert (word, refused) == ("read errors", readers(template, old))
    assert judge(template, lambda files: files.pop(segments(template)[-1]) and None)[0] == "refused"


def test_a_truncated_segment_costs_what_lay_behind(template: Template) -> None:
    old = old_segment(template)
    slots = sorted(slot for segment, slot in template.places.values() if segment == old)
    middle = slots[len(slots) // 2]

    def truncate(files: Files) -> None:
        del files[segment_name(old)][middle * BLOCK + 100 :]

    behind = {slot for slot in slots if slot >= middle}
    assert judge(template, truncate) == ("read errors", readers(template, old, *behind))


def test_swapped_files(template: Template) -> None:
    old, last = segment_name(old_segment(template)), segments(template)[-1]
    other = next(name for name in segments(template) if name not in (old, last))

    def swap(one: str, two: str):
        def damage(files: Files) -> None:
            files[one], files[two] = files[two], files[one]

        return damage

    assert judge(template, swap(old, last))[0] == "refused"
    word, refused = judge(template, swap(old, other))
    wanted = readers(template, int(old[8:], 16)) | readers(template, int(other[8:], 16))
    assert word == "refused" or (word, refused) == ("read errors", wanted)


def test_a_batch_in_the_place_of_another(template: Template) -> None:
    """As a disk does that writes to a wrong place: whole slots, good in themselves."""
    old = old_segment(template)
    slots = sorted({slot for segment, slot in template.places.values() if segment == old})
    name, tail_slot, _, _ = tail_batch(template)

    def astray(to: str, at: int):
        def damage(files: Files) -> None:
            moved = files[segment_name(old)][slots[0] * BLOCK :][:BLOCK]
            files[to][at * BLOCK : (at + 1) * BLOCK] = moved

        return damage

    assert judge(template, astray(segment_name(old), slots[-1])) == (
        "read errors",
        readers(template, old, slots[-1]),
    )
    assert judge(template, astray(name, tail_slot))[0] == "refused"


@pytest.mark.parametrize("table", ["setting", "item", "root", "forward", "node"])
def test_any_cell_of_the_metadata_store(template: Template, table: str) -> None:
    """Found by its bytes in the file, so that SQLite itself sees nothing amiss."""
    template.restore()
    db = apsw.Connection(str(template.path / METADATA_NAME))
    column = {"setting": "key", "forward": "places"}.get(table, "body")
    rows = [bytes(row[0], "ascii") if isinstance(row[0], str) else bytes(row[0])
            for row in db.execute(f"SELECT {column} FROM {table}")]  # fmt: skip
    db.close()
    data = template.files[METADATA_NAME]
    words = []
    for row in rows[:6]:
        piece = row[:60]
        at = data.find(piece)
        while at >= 0:
            words.append(judge(template, flip(METADATA_NAME, 8 * (at + len(piece) // 2)))[0])
            at = data.find(piece, at + 1)
    assert words
    wanted = {"read errors", "refused"} if table == "node" else {"refused"}
    assert wanted & set(words), words
    assert set(words) <= wanted | {"nothing"}, "also freed pages hold such bytes"


def test_random_flips_are_never_silent(template: Template) -> None:
    found = flips(template, FLIPS, "default")
    assert sum(found.values()) == FLIPS
    assert found["read errors"] > FLIPS // 50
    assert found["refused"] > FLIPS // 50


def test_the_judge_sees_what_is_silent(template: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the verification of blocks that are read, a flip is shown: the judge says so."""
    at = next(iter(template.places))
    segment, slot = template.places[at]
    monkeypatch.setattr(
        "isochrone.store.log.Log.read_place",
        lambda log, first, sums: log.file(first >> 24).read_at(
            len(sums) * BLOCK, (first & 0xFFFFFF) * BLOCK
        ),
    )
    with pytest.raises(AssertionError, match="SILENT"):
        judge(template, flip(segment_name(segment), 8 * (slot * BLOCK + 7)))
