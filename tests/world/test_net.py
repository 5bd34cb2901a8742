"""The real net keeps the contract of all nets, over TCP and over Unix sockets."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from isochrone.errors import InvalidInput, Unavailable
from isochrone.world import net
from isochrone.world.net import Channel, SocketChannel, SystemNet, is_anywhere, split_address
from tests.contract.channel import ChannelContract, Scenario


class TestTcp(ChannelContract):
    def play(self, scenario: Scenario) -> None:
        net = SystemNet()
        asyncio.run(_settled(scenario, net, "127.0.0.1:0"))

    def nowhere(self) -> str:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            return f"127.0.0.1:{unused.getsockname()[1]}"


class TestUvloop(TestTcp):
    """The loop that the daemon takes if it is there: it starts to read sooner."""

    def play(self, scenario: Scenario) -> None:
        uvloop = pytest.importorskip("uvloop")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_settled(scenario, SystemNet(), "127.0.0.1:0"))


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
            assert isinstance(channel, SocketChannel)
            channel.write([bytes(64 << 20)])
            channel.close()
            while not channel._lost:
                await asyncio.sleep(0.01)
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


class Still(asyncio.Transport):
    """A transport on which nothing happens."""

    reading = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


def test_what_comes_before_anybody_waits_is_kept() -> None:
    """Some loops receive before they are told not to; others may do so twice."""
    channel = SocketChannel("peer:1")
    transport = Still()
    channel.connection_made(transport)
    for part in (b"some", b"thing"):
        room = channel.get_buffer(-1)
        room[: len(part)] = part
        channel.buffer_updated(len(part))
    assert not transport.reading

    async def main() -> list[bytes]:
        place = memoryview(bytearray(5))
        counts = [await channel.read_into(place[:3]) for _ in range(3)]
        assert counts == [3, 3, 3]
        channel.eof_received()
        return [await channel.read()]

    assert asyncio.run(main()) == [b""]


def test_bytes_of_the_turn_in_which_a_reader_is_cancelled_are_kept() -> None:
    async def main() -> None:
        channel = SocketChannel("peer:1")
        channel.connection_made(Still())
        reader = asyncio.ensure_future(channel.read_into(memoryview(bytearray(8))))
        await asyncio.sleep(0)
        channel.get_buffer(-1)[:3] = b"abc"
        channel.buffer_updated(3)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert await channel.read() == b"abc"

    asyncio.run(main())


def test_a_loop_that_asks_for_room_and_then_receives_nothing() -> None:
    """A socket may be called ready when it is not: what comes next goes where it is wanted."""

    async def main() -> None:
        channel = SocketChannel("peer:1")
        channel.connection_made(Still())
        channel.get_buffer(-1)
        place = memoryview(bytearray(8))
        reader = asyncio.ensure_future(channel.read_into(place))
        await asyncio.sleep(0)
        channel.get_buffer(-1)[:3] = b"abc"
        channel.buffer_updated(3)
        assert await asyncio.wait_for(reader, 5) == 3
        assert place[:3] == b"abc"

    asyncio.run(main())


def test_what_came_twice_in_the_turn_in_which_a_reader_is_cancelled_is_kept_in_order() -> None:
    async def main() -> None:
        channel = SocketChannel("peer:1")
        channel.connection_made(Still())
        reader = asyncio.ensure_future(channel.read_into(memoryview(bytearray(8))))
        await asyncio.sleep(0)
        for part in (b"abc", b"def"):
            channel.get_buffer(-1)[:3] = part
            channel.buffer_updated(3)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert await channel.read() == b"abcdef"

    asyncio.run(main())


def test_a_handler_that_breaks_is_told_and_its_channel_closed() -> None:
    async def main() -> None:
        told: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, c: told.append(c["exception"]))
        defect = ValueError("a defect")

        async def handler(channel: Channel) -> None:
            raise defect

        listener = await SystemNet().listen("127.0.0.1:0", handler)
        near = await SystemNet().connect(listener.address)
        assert await near.read() == b""
        assert told == [defect]
        near.close()
        listener.close()

    asyncio.run(main())
