"""The real net keeps the contract of all nets, over TCP and over Unix sockets."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from isochrone.errors import InvalidInput
from isochrone.world.net import SystemNet, split_address
from tests.contract.channel import ChannelContract, Scenario


class TestTcp(ChannelContract):
    def play(self, scenario: Scenario) -> None:
        net = SystemNet()
        asyncio.run(_settled(scenario, net, "127.0.0.1:0"))

    def nowhere(self) -> str:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            return f"127.0.0.1:{unused.getsockname()[1]}"


class TestUnix(ChannelContract):
    refuses_second_listener = False  # asyncio takes a socket file over, so that a restart can

    @pytest.fixture(autouse=True)
    def folder(self) -> Iterator[None]:
        with tempfile.TemporaryDirectory() as path:  # tmp_path is too long for a socket
            self.path = Path(path)
            yield

    def play(self, scenario: Scenario) -> None:
        net = SystemNet()
        asyncio.run(_settled(scenario, net, str(self.path / "s")))

    def nowhere(self) -> str:
        return str(self.path / "nobody")


async def _settled(scenario: Scenario, net: SystemNet, address: str) -> None:
    await scenario(net, net, address)
    await asyncio.sleep(0.01)  # closed transports let go of their sockets


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:10809", ("127.0.0.1", 10809)),
        (":10809", ("127.0.0.1", 10809)),
        ("tokyo:0", ("tokyo", 0)),
        ("[::1]:80", ("::1", 80)),
        ("/run/isochrone.sock", None),
        ("./here:80", None),
    ],
)
def test_split_address(address: str, parts: tuple[str, int] | None) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize("address", ["", "tokyo", "tokyo:", "tokyo:http", "tokyo:65536", "a:-1"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(InvalidInput, match="is not an address"):
        split_address(address)
