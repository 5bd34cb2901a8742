"""The pretended net keeps the contract of all nets."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from isochrone.errors import Unavailable
from isochrone.sim.fabric import SimFabric
from isochrone.sim.loop import run
from isochrone.sim.net import SimNet
from isochrone.world.net import Channel
from tests.contract.channel import ChannelContract, Scenario


class TestTwoSites(ChannelContract):
    def play(self, scenario: Scenario) -> None:
        async def main() -> None:
            fabric = SimFabric(asyncio.get_running_loop(), Random(1))
            fabric.weather.pieces = 0.5
            await scenario(SimNet(fabric, "tokyo"), SimNet(fabric, "osaka"), "tokyo:0")

        run(main())

    def nowhere(self) -> str:
        return "tokyo:1"


class TestOneSite(ChannelContract):
    address = "127.0.0.1:0"

    def play(self, scenario: Scenario) -> None:
        async def main() -> None:
            fabric = SimFabric(asyncio.get_running_loop(), Random(1))
            net = SimNet(fabric, "tokyo")
            await scenario(net, net, self.address)

        run(main())

    def nowhere(self) -> str:
        return "127.0.0.1:1"


class TestUnix(TestOneSite):
    address = "/run/a.sock"

    def nowhere(self) -> str:
        return "/run/b.sock"


def test_a_path_is_private_to_its_site() -> None:
    async def main() -> None:
        fabric = SimFabric(asyncio.get_running_loop(), Random(1))

        async def handler(channel: Channel) -> None: ...

        await SimNet(fabric, "tokyo").listen("/run/a.sock", handler)
        with pytest.raises(Unavailable):
            await SimNet(fabric, "osaka").connect("/run/a.sock")
        with pytest.raises(Unavailable):
            await SimNet(fabric, "osaka").listen("tokyo:1", handler)

    run(main())
