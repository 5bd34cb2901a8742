"""Asking another site: what it offers, and what it makes of a switch."""

from __future__ import annotations

import pytest

from isochrone.dr.inquiry import ask_offer, ask_switch
from isochrone.errors import IsochroneError, PeerFault, Unavailable
from isochrone.mirror.messages import Switch
from tests.mirror.sites import GROUP, Two, play


def test_an_offer() -> None:
    async def scenario(two: Two) -> None:
        followers = set(two.a.group().sessions)
        offer = await two.b.call(ask_offer(two.b.pool, two.b.group(), two.a.address))
        group = two.a.group()
        assert (offer.pool, offer.cut) == (two.a.pool.identity, group.cut)
        assert offer.branch.lineage == group.identity
        assert offer.volumes == {n: two.a.pool.state.names[n] for n in ("db", "wal")}
        assert offer.way == (two.a.pool.identity,)
        assert group.cut in offer.cuts
        assert set(two.a.group().sessions) == followers, "asking is not following"
        with pytest.raises(IsochroneError):
            await two.b.call(ask_offer(two.b.pool, two.b.group(), "nowhere:1"))
        with pytest.raises(PeerFault, match="cannot mirror itself"):
            await two.b.call(ask_offer(two.b.pool, two.b.group(), two.b.address))

    play(scenario)


def test_a_refusal_and_silence() -> None:
    async def scenario(two: Two) -> None:
        look = Switch(pool="p", group="nix", lineage="x", epoch=1, act="look")
        with pytest.raises(PeerFault, match="no group 'nix'"):
            await two.b.call(ask_switch(two.b.pool, two.a.address, look))
        two.fabric.stall("a", "b")
        with pytest.raises(Unavailable):
            await two.b.call(
                ask_switch(
                    two.b.pool,
                    two.a.address,
                    Switch(pool="p", group=GROUP, lineage="x", epoch=1, act="look"),
                )
            )

    play(scenario)
