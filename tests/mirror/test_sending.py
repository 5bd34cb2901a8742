"""What a primary sends, within the credit it has."""

from __future__ import annotations

import asyncio
from array import array
from random import Random
from typing import Any

from isochrone.mirror.messages import Data, Holes
from isochrone.mirror.sending import Sender
from isochrone.mirror.sidefile import HoleRanges
from isochrone.sim.fabric import SimFabric
from isochrone.sim.loop import run
from isochrone.sim.site import Site
from isochrone.store.pool import Pool
from isochrone.types import BLOCK
from tests.mirror.sites import LIMITS, fill


class Talk:
    def __init__(self) -> None:
        self.said: list[Any] = []

    async def send(self, message: Any) -> None:
        self.said.append(message)


def test_data_waits_for_credit_and_the_other_side_hears_that_we_are_alive() -> None:
    async def main() -> None:
        site = Site("a", SimFabric(asyncio.get_running_loop(), Random(1)), 1)
        beats = 0

        async def beat() -> None:
            nonlocal beats
            beats += 1

        talk = Talk()
        out = Sender(Pool.open(site.disk, site.world, LIMITS), talk, beat)  # type: ignore[arg-type]
        assert await out.item(HoleRanges(((1, 0, 16),))) == 0
        one, payload = array("Q", [0]), fill("x")
        sending = asyncio.ensure_future(out.blocks(1, one, one, payload))
        await asyncio.sleep(3.5)
        assert beats == 3
        assert [type(message) for message in talk.said] == [Holes]
        out.credit += 1
        out.news.set()
        assert await sending == 1
        assert out.credit == 1 - BLOCK
        assert isinstance(talk.said[-1], Data)

    run(main())
