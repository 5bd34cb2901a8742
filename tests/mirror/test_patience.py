"""A fault that repeats for ever is told as that, and is not met at full speed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from isochrone.errors import Damaged, PeerFault, Unavailable
from isochrone.mirror import apply
from isochrone.mirror.patience import STUCK_FAULTS, STUCK_SECONDS, Patience
from tests.mirror.sites import GROUP, Two, play, until


def test_the_same_at_the_same_cut_ends_it() -> None:
    patience = Patience()
    for _ in range(STUCK_FAULTS - 1):
        assert patience.failed(PeerFault("a"), 7) == "a"
        assert not patience.ended
    told = patience.failed(PeerFault("a", hint="do this"), 7)
    assert patience.ended
    assert told == "a; at cut 7 that comes again and again, so somebody must act: do this"
    assert patience.failed(PeerFault("a", hint="do this"), 7) == told, "the same words each time"
    patience.advanced()
    assert not patience.ended


@pytest.mark.parametrize(
    "others",
    [
        [(PeerFault("b"), 7)],
        [(PeerFault("a"), 8)],
        [(Damaged("a block"), 7)],
    ],
)
def test_another_fault_or_cut_counts_anew(others: list[tuple[Any, int]]) -> None:
    patience = Patience()
    for _ in range(3 * STUCK_FAULTS):
        patience.failed(PeerFault("a"), 7)
        for error, cut in others:
            assert patience.failed(error, cut) == str(error)
        assert not patience.ended


def test_a_link_that_breaks_does_not_count() -> None:
    patience = Patience()
    for _ in range(3 * STUCK_FAULTS):
        patience.failed(Unavailable("gone"), 7)
    assert not patience.ended


def test_a_fault_for_ever_suspends_and_comes_right_once_it_is_mended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = apply.Receiver.data
    tries: list[float] = []

    def faulty(self: Any, message: Any) -> None:
        tries.append(asyncio.get_running_loop().time())
        raise PeerFault("the primary sent nonsense")

    async def scenario(two: Two) -> None:
        monkeypatch.setattr(apply.Receiver, "data", faulty)
        two.a.write("db", 5, "never taken")
        await until(lambda: "again and again" in two.b.status().cause)
        cut = two.b.group().cut
        with capture_logs() as lines:
            seen = set()
            for _ in range(2000):
                status = two.b.status()
                seen.add((status.state, status.cause_kind, status.cause))
                await asyncio.sleep(0.1)
        ((state, kind, cause),) = seen
        assert (state, kind) == ("SUSPENDED", "refused")
        assert cause.startswith(f"the primary sent nonsense; at cut {cut} ")
        assert not [x for x in lines if x["event"].startswith("pair ")]
        passed = [b - a for a, b in zip(tries[-3:], tries[-2:], strict=False)]
        assert min(passed) >= STUCK_SECONDS / 2
        (open_now,) = [x for x in status.suspensions if not x.until]
        assert open_now.cause == "refused"
        monkeypatch.setattr(apply.Receiver, "data", data)
        await two.b.wait()
        assert two.b.status().state == "DUPLEX"
        assert two.b.says("db", 5) == "never taken"
        assert all(x.until for x in two.b.status().suspensions)

    play(scenario)


def test_who_is_refused_at_once_is_asked_again_soon() -> None:
    """As when it was suspended by a command at the primary, which ends by another one."""

    async def scenario(two: Two) -> None:
        two.a.mirrors.suspend(GROUP)
        await asyncio.sleep(200)
        assert "again and again" not in two.b.status().cause
        two.a.mirrors.resume(GROUP)
        await asyncio.sleep(10)
        assert two.b.status().state == "DUPLEX"

    play(scenario)
