"""Packing is tried on all data that shrinks, and on little of what does not."""

from __future__ import annotations

from random import Random

import lz4.block

from isochrone.mirror.packing import SKIPPED_MAX, Packing
from isochrone.types import KIB

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
