"""What any `Net` and its channels must do. A class of tests inherits it and says where."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest

from isochrone.errors import InvalidInput, Unavailable
from isochrone.world.net import READ_BYTES, UNSENT_BYTES_MAX, Channel, Listener, Net

Scenario = Callable[[Net, Net, str], Awaitable[None]]
MIB = 1 << 20


async def read_exactly(channel: Channel, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        more = await channel.read()
        assert more, f"the channel ended after {len(data)} of {length} bytes"
        assert len(more) <= READ_BYTES
        data += more
    assert len(data) == length
    return bytes(data)


async def read_all(channel: Channel) -> bytes:
    data = bytearray()
    while more := await channel.read():
        data += more
    return bytes(data)


async def pair(server: Net, client: Net, address: str) -> tuple[Listener, Channel, Channel]:
    """(listener, the client's side, the server's side)"""
    made: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def handler(channel: Channel) -> None:
        made.set_result(channel)
        await over

    listener = await server.listen(address, handler)
    near = await client.connect(listener.address)
    return listener, near, await made


class ChannelContract:
    def play(self, scenario: Scenario) -> None:
        """Run `scenario(the server's net, the client's net, an address to listen at)`."""
        raise NotImplementedError

    def nowhere(self) -> str:
        """An address where nobody listens."""
        raise NotImplementedError

    def test_bytes_travel_both_ways_in_order(self) -> None:
        async def scenario(server: Net, client: Net, address: str) -> None:
            listener, near, far = await pair(server, client, address)
            sent = [bytes([n]) * (n * 37 + 1) for n in range(100)]
            for data in sent:
                near.write([data[:1], memoryview(data)[1:], b""])
                far.write([data])
            await near.drain()
            await far.drain()
            assert await read_exactly(far, sum(map(len, sent))) == b"".join(sent)
            assert await read_exactly(near, sum(map(len, sent))) == b"".join(sent)
            for each in (near, far, listener):
                each.close()

        self.play(scenario)

    def test_bytes_are_received_where_they_are_wanted(self) -> None:
        """Into places of any size, and never beyond them."""

        async def scenario(server: Net, client: Net, address: str) -> None:
            listener, near, far = await pair(server, client, address)
            sent = bytes(range(256)) * 512
            near.write([sent])
            near.close()
            got, place = bytearray(), bytearray(5000)
            for size in itertools.cycle((1, 7, 4096, 300)):
                place[:] = bytes(5000)
                count = await far.read_into(memoryview(place)[100 : 100 + size])
                assert count <= size
                assert not any(place[:100])
                assert not any(place[100 + count :])
                got += place[100 : 100 + count]
                if not count:
                    break
            assert got == sent
            assert await far.read_into(memoryview(place)) == 0
            far.close()
            listener.close()

        self.play(scenario)

    def test_who_stops_waiting_loses_nothing(self) -> None:
        async def scenario(server: Net, client: Net, address: str) -> None:
            listener, near, far = await pair(server, client, address)
            for n in range(20):
                reader = asyncio.ensure_future(far.read_into(memoryview(bytearray(10))))
                await asyncio.sleep(0.001 * (n % 3))
                near.write([bytes([n])])
                if n % 2:
                    await asyncio.sleep(0.02)
                    assert await reader == 1
                else:
                    reader.cancel()  # before the byte can have come
                    await asyncio.gather(reader, return_exceptions=True)
                    assert await read_exactly(far, 1) == bytes([n])
            for each in (near, far, listener):
                each.close()

        self.play(scenario)

    def test_what_was_sent_before_a_close_arrives(self) -> None:
        async def scenario(server: Net, client: Net, address: str) -> None:
            listener, near, far = await pair(server, client, address)
            near.write([b"x" * MIB])
            near.close()
            near.close()
            assert await read_all(far) == b"x" * MIB
            assert await far.read() == b""
            assert await near.read() == b""
            far.close()
            listener.close()

        self.play(scenario)

    def test_a_close_wakes_its_own_reader(self) -> None:
        async def scenario(server: Net, client: Net, address: str) -> None:
            listener, near, far = await pair(server, client, address)
            reader = asyncio.ensure_future(near.read())
            await asyncio.sleep(0.05)
            near.close()
            assert await reader == b""
            far.close()
            listener.close()

        self.play(scenario)

    def test_writing_to_one_who_has_closed_fails_in_the_end(self) -> None:
        async def scenario(server: Net, client: Net, address: str) -> None:
            listener, near, far = await pair(server, client, address)
            far.close()
            with pytest.raises(Unavailable):  # noqa: PT012
                for _ in range(200):
                    near.write([b"x"])
                    await near.drain()
                    await asyncio.sleep(0.01)
            assert await near.read() == b""
            near.close()
            listener.close()

        self.play(scenario)

    def test_a_closed_channel_takes_writes_and_drops_them(self) -> None:
        async def scenario(server: Net, client: Net, address: str) -> None:
            listener, near, far = await pair(server, client, address)
            near.close()
            await asyncio.sleep(0.05)
            near.write([b"x"])
            with pytest.raises(Unavailable):
                await near.drain()
            assert await read_all(far) == b""
            far.close()
            listener.close()

        self.play(scenario)

    def test_drain_waits_for_a_slow_reader(self) -> None:
        async def scenario(server: Net, client: Net, address: str) -> None:
            listener, near, far = await pair(server, client, address)
            sent = 0

            async def send() -> None:
                nonlocal sent
                while sent < 32:
                    near.write([bytes(MIB)])
                    sent += 1
                    await near.drain()

            sender = asyncio.ensure_future(send())
            await asyncio.sleep(0.5)
            assert UNSENT_BYTES_MAX // MIB <= sent < 32, "nobody reads, yet all was taken"
            await read_exactly(far, 32 * MIB)
            await sender
            near.close()
            far.close()
            listener.close()

        self.play(scenario)

    def test_closing_frees_one_who_drains(self) -> None:
        async def scenario(server: Net, client: Net, address: str) -> None:
            listener, near, far = await pair(server, client, address)

            async def send() -> None:
                while True:
                    near.write([bytes(MIB)])
                    await near.drain()

            sender = asyncio.ensure_future(send())
            await asyncio.sleep(0.2)
            far.close()
            with pytest.raises(Unavailable):
                await sender
            near.close()
            listener.close()

        self.play(scenario)

    def test_a_handler_that_returns_closes_its_channel(self) -> None:
        async def scenario(server: Net, client: Net, address: str) -> None:
            async def handler(channel: Channel) -> None:
                channel.write([b"hello " + await channel.read()])

            listener = await server.listen(address, handler)
            for name in (b"a", b"b"):
                near = await client.connect(listener.address)
                near.write([name])
                assert await read_all(near) == b"hello " + name
                near.close()
            listener.close()

        self.play(scenario)

    def test_a_closed_listener_takes_no_more_and_keeps_what_it_has(self) -> None:
        async def scenario(server: Net, client: Net, address: str) -> None:
            listener, near, far = await pair(server, client, address)
            where = listener.address
            listener.close()
            with pytest.raises(Unavailable):
                await client.connect(where)
            near.write([b"still"])
            assert await read_exactly(far, 5) == b"still"
            near.close()
            far.close()

        self.play(scenario)

    def test_one_listener_an_address(self) -> None:
        async def scenario(server: Net, client: Net, address: str) -> None:
            async def handler(channel: Channel) -> None: ...

            listener = await server.listen(address, handler)
            with pytest.raises(Unavailable):
                await server.listen(listener.address, handler)
            listener.close()

        if self.refuses_second_listener:
            self.play(scenario)

    refuses_second_listener = True

    def test_nobody_answers(self) -> None:
        async def scenario(server: Net, client: Net, address: str) -> None:
            with pytest.raises(Unavailable, match="nobody answers"):
                await client.connect(self.nowhere())

        self.play(scenario)

    def test_addresses_are_checked(self) -> None:
        async def scenario(server: Net, client: Net, address: str) -> None:
            with pytest.raises(InvalidInput):
                await client.connect("no-port")
            with pytest.raises(InvalidInput):
                await server.listen("host:99999", lambda channel: asyncio.sleep(0))

        self.play(scenario)
