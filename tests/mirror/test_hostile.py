"""Both ends of a session against another site that says whatever it likes; a small number of it.

`bench/hostile_link.py` says the large one.
"""

from __future__ import annotations

import tracemalloc

from tests.mirror.hostile import attack


def test_nothing_but_our_own_errors_comes_out() -> None:
    ends = attack(3000, 5)
    for side in ("source", "mover"):
        assert ends[f"{side}: PeerFault"] > 50
        assert ends[f"{side}: Unavailable"], "no session was understood to its end"
    assert "source: NotAllowed" not in ends  # nobody had to prove anything here


def test_the_same_seed_says_the_same() -> None:
    assert attack(200, 6) == attack(200, 6)


def peak(frames: int) -> int:
    """Bytes of Python at the worst moment, pretended disks included."""
    tracemalloc.start()
    try:
        attack(frames, 8)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_more_frames_hold_no_more() -> None:
    attack(50, 7)
    assert peak(600) < 2 * peak(150)
