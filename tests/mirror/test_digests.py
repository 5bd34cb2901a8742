"""Two tables whose digests are equal map equal blocks; what differs is found, and nothing else."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from isochrone.mirror import digests
from isochrone.mirror.images import LEAF_TRACKS, TRACK_BLOCKS
from isochrone.store.format import checksum
from isochrone.store.tracks import LEAF_BLOCKS, Forest, Table

TRACKS = 3 * LEAF_TRACKS
contents = st.dictionaries(
    st.integers(0, 3 * LEAF_BLOCKS - 1), st.integers(1, 3), max_size=40
)  # block -> checksum


def nothing(id: int) -> bytes:
    raise AssertionError(id)


def made(content: dict[int, int], pointer: int) -> tuple[Forest, Table]:
    """A table with such checksums, at any places."""
    forest = Forest(nothing)
    table = forest.table()
    for block, sum in content.items():
        forest.map(table, block, pointer + block, array("Q", [sum]))
    return forest, table


@given(contents, contents, st.integers(0, TRACKS - 1), st.integers(1, TRACKS))
def test_what_differs(one: dict[int, int], other: dict[int, int], track: int, count: int) -> None:
    mine = digests.of_range(*made(one, 1000), track, count)
    theirs = digests.of_range(*made(other, 9000), track, count)
    different = {
        at // TRACK_BLOCKS for at in one.keys() | other.keys() if one.get(at) != other.get(at)
    }
    wanted = different & set(range(track, track + count))
    assert set(digests.differing(mine, theirs, track, count)) == wanted
    assert len(mine) in (0, 8 * count)


def test_the_bytes() -> None:
    """Both sites must compute the same, whatever version they are."""
    sums = {at: 0x1111 * (at + 1) for at in range(TRACK_BLOCKS + 1)}
    found = digests.of_range(*made(sums, 77), 0, 3)
    words = array("Q", [sums[at] for at in range(TRACK_BLOCKS)])
    second = array("Q", [sums[TRACK_BLOCKS], *[0] * (TRACK_BLOCKS - 1)])
    parts = (words.tobytes(), second.tobytes(), bytes(128))
    assert found == b"".join(checksum(part).to_bytes(8, "little") for part in parts)


def test_nothing_is_said_of_nothing() -> None:
    assert digests.of_range(*made({}, 1), 0, 1 << 15) == b""
    assert digests.of_range(*made({0: 1}, 1), 1, 1 << 15) == b""
    assert not digests.differing(b"", b"", 5, 10)
