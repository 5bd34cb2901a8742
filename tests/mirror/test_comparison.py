"""Comparing, without sites: what differs, and which answers are none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from isochrone.errors import PeerFault
from isochrone.mirror import comparison, witness
from isochrone.mirror.comparison import ZERO_SUM, check, differing_blocks, runs
from isochrone.mirror.messages import Verified, Verify
from tests.mirror.rotting import verified
from tests.mirror.sites import Two, play

SUMS = st.lists(st.sampled_from([0, ZERO_SUM, 5, 6]), min_size=32, max_size=32)


@given(SUMS, SUMS)
def test_blocks_differ_where_their_content_does(mine: list[int], theirs: list[int]) -> None:
    rows = [np.array(row, "<u8").tobytes() if any(row) else b"" for row in (mine, theirs)]
    plain = [[0 if s == ZERO_SUM else s for s in row] for row in (mine, theirs)]
    wanted = [80 + n for n in range(32) if plain[0][n] != plain[1][n]]
    assert differing_blocks(*rows, 5, 2) == wanted


@given(st.sets(st.integers(0, 60)), st.integers(1, 9))
def test_runs_cover_all_and_are_short(tracks: set[int], most: int) -> None:
    found = list(runs(BitMap(tracks), most))
    assert [t for first, n in found for t in range(first, first + n)] == sorted(tracks)
    assert all(0 < n <= most for _, n in found)


ASKED = Verify(cut=9, volume=3, track=16, count=8, whole=bytes(8))


@pytest.mark.parametrize(
    "told",
    [
        Verified(volume=4, track=16, size=1),
        Verified(volume=3, track=17, size=1),
        Verified(volume=3, track=16, size=1, digests=bytes(63)),
        Verified(volume=3, track=16, size=1, digests=bytes(128 * 8)),
        Verified(volume=3, track=16, size=1, damaged=(24 * 16,)),
        Verified(volume=3, track=16, size=1, damaged=(255,)),
    ],
)
def test_wrong_answers(told: Verified) -> None:
    with pytest.raises(PeerFault):
        check(ASKED, told)


def test_right_answers() -> None:
    check(ASKED, Verified(volume=3, track=16, size=1, digests=bytes(64), damaged=(256, 383)))
    asked = Verify(cut=9, volume=3, track=16, count=8, whole=bytes(8), sums=True)
    check(asked, Verified(volume=3, track=16, size=1, digests=bytes(8 * 128)))


@pytest.mark.parametrize("lie", ["other tracks", "too short", "bad bits", "never known"])
def test_a_primary_that_lies_fails_the_pass_and_harms_nothing(
    lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = witness.Witness._look

    async def look(self: witness.Witness, asked: Verify) -> Verified:
        await honest(self, asked)
        right = {"volume": asked.volume, "track": asked.track, "size": 4 << 20}
        match lie:
            case "other tracks":
                return Verified(**(right | {"track": 5}))
            case "too short":
                return Verified(**right, digests=b"x" * 24)
            case "bad bits":
                return Verified(**right, unstable=b"x" * 24)
        return Verified(**right, known=False)

    monkeypatch.setattr(witness.Witness, "_look", look)
    monkeypatch.setattr(comparison, "CUT_SECONDS_MAX", 1.0)

    async def scenario(two: Two) -> None:
        progress = await verified(two.b)
        if lie == "never known":
            assert (progress.state, progress.unstable_bytes) == ("done", progress.total)
        else:
            assert progress.state == "failed"
            assert progress.reason
        assert progress.found == 0
        two.a.write("db", 1, "on")
        await two.b.wait()
        assert two.same("db")

    play(scenario)
