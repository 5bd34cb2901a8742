"""What is done about a side file, as a table."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.errors import InvalidInput
from isochrone.mirror.limits import (
    PACE_SECONDS_MAX,
    PACED_OUT_SECONDS,
    PINNED_SEGMENTS_MIN,
    POLICIES,
    PRESSED_SECONDS,
    Action,
    Backlog,
    SideFileLimits,
    decide,
    fill,
    pace,
)
from isochrone.types import GIB, MIB

SUSPEND = SideFileLimits("suspend", 8 * GIB)
BEHIND = SideFileLimits("fall-behind", 8 * GIB, 60.0)
PACE = SideFileLimits("pace", 0, 60.0)
FREE = SideFileLimits("suspend", 0, 0.0)
NEEDED = Backlog(pressed_seconds=PRESSED_SECONDS, pinned_segments=PINNED_SEGMENTS_MIN)


@pytest.mark.parametrize(
    ("limits", "backlog", "action"),
    [
        (SUSPEND, Backlog(), Action.NONE),
        (SUSPEND, Backlog(bytes=8 * GIB - 1), Action.NONE),
        (SUSPEND, Backlog(bytes=8 * GIB), Action.SUSPEND),
        (SUSPEND, Backlog(age=1e6), Action.NONE),
        (SUSPEND, Backlog(bytes=8 * GIB, copying=True), Action.FALL_BEHIND),
        (SUSPEND, Backlog(bytes=8 * GIB, keeps_log=False), Action.NONE),
        (BEHIND, Backlog(bytes=8 * GIB), Action.FALL_BEHIND),
        (BEHIND, Backlog(age=60.0), Action.FALL_BEHIND),
        (BEHIND, Backlog(age=59.0), Action.NONE),
        (BEHIND, Backlog(age=90.0, keeps_log=False), Action.NONE),
        (PACE, Backlog(age=30.0), Action.NONE),
        (PACE, Backlog(age=45.0), Action.PACE),
        (PACE, Backlog(age=600.0), Action.PACE),
        (PACE, Backlog(age=600.0, over_seconds=PACED_OUT_SECONDS), Action.SUSPEND),
        (PACE, Backlog(age=600.0, copying=True), Action.FALL_BEHIND),
        (PACE, Backlog(age=600.0, keeps_log=False), Action.NONE),
        (FREE, Backlog(bytes=1 << 60, age=1e9), Action.NONE),
        (FREE, NEEDED, Action.SUSPEND),
        (PACE, NEEDED, Action.SUSPEND),
        (FREE, replace(NEEDED, copying=True), Action.FALL_BEHIND),
        (FREE, replace(NEEDED, keeps_log=False), Action.NONE),
        (FREE, replace(NEEDED, pinned_segments=PINNED_SEGMENTS_MIN - 1), Action.NONE),
        (FREE, replace(NEEDED, pressed_seconds=PRESSED_SECONDS / 2), Action.NONE),
    ],
)
def test_the_table(limits: SideFileLimits, backlog: Backlog, action: Action) -> None:
    decision = decide(backlog, limits)
    assert decision.action is action
    assert bool(decision.delay) == (action is Action.PACE)
    assert bool(decision.why) == (action in (Action.SUSPEND, Action.FALL_BEHIND))


@given(
    policy=st.sampled_from(POLICIES),
    size=st.integers(0, 1 << 50),
    age=st.floats(0, 1e7),
    over=st.floats(0, 1e4),
    keeps=st.booleans(),
    copying=st.booleans(),
)
def test_whatever_happens_is_bounded(
    policy: str, size: int, age: float, over: float, keeps: bool, copying: bool
) -> None:
    limits = SideFileLimits(policy, 1 * GIB, 60.0)
    backlog = Backlog(size, age, over, keeps_log=keeps, copying=copying)
    decision = decide(backlog, limits)
    assert 0 <= decision.delay <= PACE_SECONDS_MAX
    if not keeps:
        assert decision.action is Action.NONE, "what costs nothing needs no limit"
    elif fill(backlog, limits) < 0.5:
        assert decision.action is Action.NONE, "half of a limit is not held against anybody"
    elif fill(backlog, limits) >= 1.0:
        assert decision.action is not Action.NONE, "a limit that is exceeded has a consequence"
    if copying:
        assert decision.action is not Action.SUSPEND, "a copy would have to begin again"


def test_the_delay_rises_with_the_backlog() -> None:
    delays = [pace(used / 100) for used in range(0, 200, 5)]
    assert delays == sorted(delays)
    assert delays[10] == 0.0
    assert delays[11] > 0.0
    assert delays[20] == delays[-1] == PACE_SECONDS_MAX


@pytest.mark.parametrize(
    "limits",
    [
        SideFileLimits("hold"),
        SideFileLimits("pace", 1 * MIB),
        SideFileLimits("pace", -1),
        SideFileLimits("pace", 0, 0.5),
        SideFileLimits("pace", 0, 1e9),
    ],
)
def test_limits_that_make_no_sense(limits: SideFileLimits) -> None:
    with pytest.raises(InvalidInput):
        limits.check()


def test_none_is_a_limit_too() -> None:
    FREE.check()
    assert fill(Backlog(bytes=1 << 60, age=1e9), FREE) == 0.0
