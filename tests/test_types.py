"""The nouns every room shares."""

from __future__ import annotations

from isochrone.types import BLOCK, TIB, TRACK, VOLUME_BYTES_MAX, VOLUME_BYTES_MIN, Lineage


def test_a_later_epoch_supersedes_an_earlier_one_of_the_same_history_only() -> None:
    first, second = Lineage("a", 1), Lineage("a", 2)
    assert second.supersedes(first)
    assert not first.supersedes(second)
    assert not first.supersedes(first)
    assert not Lineage("b", 9).supersedes(first)


def test_units_fit_each_other() -> None:
    assert TRACK % BLOCK == 0
    assert VOLUME_BYTES_MIN % TRACK == VOLUME_BYTES_MAX % TRACK == 0
    assert VOLUME_BYTES_MAX == 64 * TIB
