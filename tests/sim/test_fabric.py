"""What lines can do to the channels over them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from isochrone.errors import Unavailable
from isochrone.sim.fabric import SimChannel, SimFabric
from isochrone.sim.loop import run
from isochrone.sim.net import SimNet
from isochrone.world.net import Channel

Play = Callable[[SimFabric, Channel, Channel], Awaitable[None]]


async def connect(fabric: SimFabric) -> tuple[Channel, Channel]:
    """A channel from osaka to tokyo: (osaka's side, tokyo's side)."""
    made: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()

    async def handler(channel: Channel) -> None:
        made.set_result(channel)
        await asyncio.Event().wait()

    listener = await SimNet(fabric, "tokyo").listen("tokyo:0", handler)
    near = await SimNet(fabric, "osaka").connect(listener.address)
    return near, await made


def play(scenario: Play, seed: int = 1) -> None:
    async def main() -> None:
        fabric = SimFabric(asyncio.get_running_loop(), Random(seed))
        fabric.weather.pieces = 0.0
        near, far = await connect(fabric)
        await scenario(fabric, near, far)

    run(main())


async def read_all(channel: Channel) -> list[bytes]:
    data = []
    while more := await channel.read():
        data.append(more)
    return data


def now() -> float:
    return asyncio.get_running_loop().time()


def test_each_message_has_its_delay_and_order_holds() -> None:
    async def scenario(fabric: SimFabric, near: Channel, far: Channel) -> None:
        fabric.weather.latency = (0.1, 5.0)
        start = now()
        for n in range(20):
            near.write([bytes([n])])
        times = []
        for n in range(20):
            assert await far.read() == bytes([n])
            times.append(now() - start)
        assert 0.1 <= times[0] < times[-1] <= 5.0

    play(scenario)


def test_a_slow_line_is_shared() -> None:
    async def scenario(fabric: SimFabric, near: Channel, far: Channel) -> None:
        other_near, other_far = await connect(fabric)
        fabric.weather.bytes_per_s = 1000
        start = now()
        near.write([bytes(5000)])
        other_near.write([bytes(5000)])
        await far.read()
        await other_far.read()
        assert 10 < now() - start < 10.1

    play(scenario)


def test_a_stall_delays_and_loses_nothing() -> None:
    async def scenario(fabric: SimFabric, near: Channel, far: Channel) -> None:
        near.write([b"1"])
        fabric.stall("osaka", "tokyo")
        near.write([b"2"])
        far.write([b"back"])
        connecting = asyncio.ensure_future(connect(fabric))
        reader = asyncio.ensure_future(far.read())
        await asyncio.sleep(5)
        assert not reader.done()
        assert not connecting.done()
        fabric.heal("tokyo", "osaka")
        near.write([b"3"])
        assert await reader == b"1"
        assert [await far.read(), await far.read()] == [b"2", b"3"]
        assert await near.read() == b"back"
        assert now() < 5.1
        await connecting

    play(scenario)


def test_a_connect_gives_up_on_a_stalled_line() -> None:
    async def scenario(fabric: SimFabric, near: Channel, far: Channel) -> None:
        fabric.stall("osaka", "tokyo")
        with pytest.raises(Unavailable, match="timed out"):
            await connect(fabric)

    play(scenario)


@pytest.mark.parametrize("one_way", [False, True])
@pytest.mark.parametrize("heal", [False, True])
def test_a_cut_ends_its_channels_on_both_sides(one_way: bool, heal: bool) -> None:
    noticed = set()

    async def scenario(fabric: SimFabric, near: Channel, far: Channel) -> None:
        sent = [bytes([n]) * 100 for n in range(10)]
        for data in sent:
            near.write([data])
        fabric.cut("osaka", "tokyo", one_way=one_way)
        if heal:
            fabric.heal("osaka", "tokyo")
        near.write([b"lost"])
        start = now()
        got, back = await asyncio.gather(read_all(far), read_all(near))
        assert back == []
        assert now() - start <= 30.1
        # A prefix, whose last message may be cut short.
        assert b"".join(sent).startswith(b"".join(got))
        noticed.add((len(got), len(got[-1]) if got else 0))
        for side in (near, far):
            with pytest.raises(Unavailable):
                await side.drain()

    for seed in range(60):
        play(scenario, seed)
    assert {0, 10} <= {messages for messages, _ in noticed}
    assert any(0 < last < 100 for _, last in noticed)


def test_during_a_one_way_cut_the_other_direction_still_passes() -> None:
    async def scenario(fabric: SimFabric, near: Channel, far: Channel) -> None:
        fabric.weather.at_once, fabric.weather.silence = 0.0, (10.0, 20.0)
        fabric.cut("osaka", "tokyo", one_way=True)
        far.write([b"heard"])
        near.write([b"unheard"])
        assert await near.read() == b"heard"
        assert await read_all(far) == []
        assert now() > 10

    play(scenario)


def test_a_cut_line_connects_nobody_until_it_is_healed() -> None:
    async def scenario(fabric: SimFabric, near: Channel, far: Channel) -> None:
        fabric.cut("tokyo", "osaka", one_way=True)
        with pytest.raises(Unavailable):
            await connect(fabric)
        fabric.heal_all()
        await connect(fabric)

    for seed in range(10):
        play(scenario, seed)


def test_one_who_drains_learns_of_a_cut() -> None:
    async def scenario(fabric: SimFabric, near: Channel, far: Channel) -> None:
        near.write([bytes(16 << 20)])
        drain = asyncio.ensure_future(near.drain())
        await asyncio.sleep(1)
        assert not drain.done()
        fabric.cut("osaka", "tokyo")
        with pytest.raises(Unavailable):
            await drain

    play(scenario)


def test_a_message_may_arrive_twice_in_a_row() -> None:
    async def scenario(fabric: SimFabric, near: Channel, far: Channel) -> None:
        fabric.weather.duplicate = 0.5
        for n in range(50):
            near.write([bytes([n])])
        near.close()
        got = await read_all(far)
        assert list(dict.fromkeys(got)) == [bytes([n]) for n in range(50)]
        assert got == sorted(got)
        assert 60 < len(got) < 90

    play(scenario)


def test_a_bit_may_flip() -> None:
    async def scenario(fabric: SimFabric, near: Channel, far: Channel) -> None:
        fabric.weather.flip = 1.0
        near.write([bytes(1000)])
        assert sum(byte.bit_count() for byte in await far.read()) == 1

    play(scenario)


@pytest.mark.parametrize("power", [False, True])
def test_a_crash_ends_channels_and_listeners(power: bool) -> None:
    async def scenario(fabric: SimFabric, near: Channel, far: Channel) -> None:
        fabric.weather.at_once = 0.0
        far.write([b"last words"])
        fabric.crash("tokyo", power=power)
        start = now()
        got = await read_all(near)
        assert got == [b"last words"] if not power else len(got) <= 1
        assert (now() - start < 0.1) == (not power)
        assert fabric.listeners == {}
        assert await far.read() == b""
        with pytest.raises(Unavailable):
            await far.drain()
        near.close()
        await asyncio.sleep(100)
        assert channels(fabric) == []

    play(scenario)


def channels(fabric: SimFabric) -> list[SimChannel]:
    return list(fabric._channels)


def test_closed_channels_are_forgotten() -> None:
    async def scenario(fabric: SimFabric, near: Channel, far: Channel) -> None:
        near.close()
        far.close()
        await asyncio.sleep(1)
        assert channels(fabric) == []

    play(scenario)
