"""The real net keeps the contract of all nets, over TCP and over Unix sockets."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from isochrone.errors import InvalidInput, Unavailable
from isochrone.world import net
from isochrone.world.net import Channel, StreamChannel, SystemNet, is_anywhere, split_address
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


@pytest.mark.parametrize(
    ("address", "anywhere"),
    [
        ("0.0.0.0:1", True),
        ("[::]:1", True),
        ("127.0.0.1:1", False),
        ("tokyo:1", False),
        ("/s", False),
    ],
)
def test_an_address_that_is_none_of_its_own(address: str, anywhere: bool) -> None:
    assert is_anywhere(address) == anywhere


@pytest.mark.parametrize(
    "address",
    [
        "",
        "tokyo",
        "tokyo:",
        "tokyo:http",
        "tokyo:65536",
        "a:-1",
        "a:\N{SUPERSCRIPT TWO}",
        "a:" + "9" * 5000,
    ],
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(InvalidInput, match="is not an address"):
        split_address(address)


@pytest.mark.parametrize("host", ["tokyo..example", "t" * 64 + ".example", "to\0kyo"])
def test_a_name_that_no_host_can_have(host: str) -> None:
    with pytest.raises(Unavailable, match="nobody answers"):
        asyncio.run(SystemNet().connect(f"{host}:80"))


def test_a_name_that_no_host_can_have_is_not_listened_at() -> None:
    async def handler(channel: Channel) -> None:
        raise AssertionError("somebody called")

    with pytest.raises(Unavailable, match="cannot listen"):
        asyncio.run(SystemNet().listen("tokyo..example:0", handler))


def test_who_does_not_read_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said before the end waits for the other side, but not for ever."""
    monkeypatch.setattr(net, "CLOSE_SECONDS_MAX", 0.05)

    async def main() -> None:
        gone = asyncio.Event()

        async def handler(channel: Channel) -> None:
            assert isinstance(channel, StreamChannel)
            channel.write([bytes(64 << 20)])
            channel.close()
            with suppress(OSError):
                await channel._writer.wait_closed()
            gone.set()

        listener = await SystemNet().listen("127.0.0.1:0", handler)
        silent = await SystemNet().connect(listener.address)
        await asyncio.wait_for(gone.wait(), 5)
        silent.close()
        listener.close()

    asyncio.run(main())


def test_a_socket_is_told_so_that_others_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another controller runs in another folder."""

    async def handler(channel: Channel) -> None:
        channel.close()

    async def main() -> None:
        listener = await SystemNet().listen("./l", handler)
        assert listener.address == str(tmp_path / "l")
        listener.close()

    monkeypatch.chdir(tmp_path)
    asyncio.run(main())
