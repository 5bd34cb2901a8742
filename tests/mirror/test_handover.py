"""The old primary's side of a switch: what it is told in which state, by whoever says it."""

from __future__ import annotations

from typing import Any

import pytest

from isochrone.errors import Conflict, IsochroneError, NotFound, PeerFault, StaleEpoch
from isochrone.mirror import handover
from isochrone.mirror.messages import RemoteVolume, Switch, Switched
from isochrone.types import MIB, Caller, Proof
from tests.mirror.sites import GROUP, Two, play


async def say(two: Two, act: Any, **changed: Any) -> Switched:
    group, state = two.b.group(), two.b.pool.state
    fields: dict[str, Any] = {
        "pool": two.b.pool.identity,
        "group": GROUP,
        "lineage": group.lineage,
        "epoch": group.epoch,
        "act": act,
        "cut": group.cut,
        "source": two.b.address,
        "volumes": tuple(
            RemoteVolume(id, state.volumes[id].name, state.volumes[id].size) for id in group.volumes
        ),
    }
    message = Switch(**{**fields, **changed})
    answer = await two.a.call(handover.answer(two.a.pool, message))
    assert isinstance(answer, Switched)
    return answer


def test_looking_changes_nothing() -> None:
    async def scenario(two: Two) -> None:
        lsn = two.a.pool.log.lsn
        answer = await say(two, "look")
        assert (answer.role, answer.epoch, answer.heir, answer.clean) == ("PRIMARY", 1, "", True)
        two.a.write("db", 3, "x")
        assert not (await say(two, "look")).clean
        assert two.a.pool.log.lsn == lsn + 1

    play(scenario)


def test_each_step_may_be_said_again() -> None:
    async def scenario(two: Two) -> None:
        for _ in range(2):
            assert (await say(two, "hold")).role == "HANDING"
        two.a.pool.attached.attach(
            two.a.pool.state.names["db"], Caller(Proof.ADDRESS, "h", "h:1")
        )  # it cannot write, and does not stop what has begun
        for _ in range(2):
            answer = await say(two, "yield")
            assert (answer.role, answer.epoch) == ("SECONDARY", 2)
            assert answer.heir == two.b.pool.identity
            assert answer.hosts == ("db: h:1",)
        group = two.a.group()
        assert group.source == two.b.address
        assert group.remote_ids == {
            two.b.pool.state.names[n]: two.a.pool.state.names[n] for n in ("db", "wal")
        }
        assert (await say(two, "cancel")).role == "SECONDARY"

    play(scenario)


@pytest.mark.parametrize(
    ("before", "act", "changed", "error"),
    [
        ([], "hold", {"group": "nix"}, NotFound),
        ([], "hold", {"lineage": "ff" * 16}, Conflict),
        ([], "hold", {"epoch": 2}, StaleEpoch),
        ([], "hold", {"pool": "ee" * 16}, Conflict),
        ([], "yield", {}, Conflict),
        (["hold"], "hold", {"pool": "ee" * 16}, Conflict),
        (["hold"], "yield", {"pool": "ee" * 16}, Conflict),
        (["hold"], "yield", {"epoch": 2}, StaleEpoch),
        (["hold"], "yield", {"source": ""}, PeerFault),
        (["hold"], "yield", {"volumes": ()}, PeerFault),
        (["hold"], "yield", {"volumes": (RemoteVolume(1, "db", MIB),)}, PeerFault),
        (
            ["hold"],
            "yield",
            {"volumes": (RemoteVolume(1, "db", MIB), RemoteVolume(1, "wal", MIB))},
            PeerFault,
        ),
        (["hold", "yield"], "hold", {}, StaleEpoch),
        (["hold", "yield"], "hold", {"epoch": 2}, Conflict),
    ],
)
def test_what_is_refused(
    before: list[str], act: str, changed: dict[str, Any], error: type[IsochroneError]
) -> None:
    async def scenario(two: Two) -> None:
        for step in before:
            await say(two, step)
        role, lsn = two.a.group().role, two.a.pool.log.lsn
        with pytest.raises(error):
            await say(two, act, **({"epoch": 1} | changed))
        assert (two.a.group().role, two.a.pool.log.lsn) == (role, lsn)

    play(scenario)


def test_a_cut_that_does_not_hold_everything_is_not_enough() -> None:
    async def scenario(two: Two) -> None:
        await say(two, "hold")
        for cut in (0, two.a.group().cut + 1):
            answer = await say(two, "yield", cut=cut)
            assert (answer.role, answer.clean) == ("HANDING", False)
        assert (await say(two, "cancel", pool="ee" * 16)).role == "HANDING"
        assert (await say(two, "cancel")).role == "PRIMARY"

    play(scenario)
