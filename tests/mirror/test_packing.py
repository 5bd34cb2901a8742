"""Packing is tried on all data that shrinks, and on little of what does not."""

from __future__ import annotations

from random import Random

import lz4.block
import pytest

from isochrone.mirror.packing import SAMPLE_BLOCKS, SKIPPED_MAX, Packing
from isochrone.types import BLOCK, KIB, MIB

NOISE = Random(1).randbytes(64 * KIB)
ZEROS = bytes(64 * KIB)


def test_what_shrinks_is_packed() -> None:
    packing = Packing()
    for _ in range(100):
        packed = packing.pack(ZEROS)
        assert packed is not None
        assert lz4.block.decompress(packed, uncompressed_size=len(ZEROS)) == ZEROS
    assert (packing.tried, packing.skipped) == (100, 0)


def test_noise_is_hardly_tried() -> None:
    packing = Packing()
    assert all(packing.pack(NOISE) is None for _ in range(1000))
    assert packing.tried < 1000 / SKIPPED_MAX + 6


def test_one_frame_of_noise_costs_nothing() -> None:
    packing = Packing()
    packing.pack(NOISE)
    assert packing.pack(ZEROS) is not None


def test_better_data_is_noticed() -> None:
    packing = Packing()
    for _ in range(1000):
        packing.pack(NOISE)
    tries = [packing.pack(ZEROS) is not None for _ in range(2 * SKIPPED_MAX + 2)]
    assert tries.index(True) <= SKIPPED_MAX
    assert all(tries[tries.index(True) :])


def test_of_long_noise_only_a_sample_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def compress(data: bytes, **options: bool) -> bytes:
        tried.append(len(data))
        return bytes(lz4_compress(data, **options))

    lz4_compress = lz4.block.compress
    monkeypatch.setattr(lz4.block, "compress", compress)
    packing = Packing()
    assert packing.pack(Random(2).randbytes(MIB)) is None
    assert tried == [SAMPLE_BLOCKS * BLOCK]
    assert packing.pack(bytes(MIB)) is not None
    assert tried[1:] == [SAMPLE_BLOCKS * BLOCK, MIB]


@pytest.mark.parametrize("packable", [1, 4, 8])
def test_a_frame_of_which_a_part_shrinks_is_packed(packable: int) -> None:
    """Of each eight pages so many are text, at any place: a sample must not overlook them."""
    random = Random(3)
    pages = [
        b"some text " * 409 + b"......" if n % 8 < packable else random.randbytes(BLOCK)
        for n in range(256)
    ]
    random.shuffle(pages)
    assert (Packing().pack(b"".join(pages)) is not None) == (packable > 1)
