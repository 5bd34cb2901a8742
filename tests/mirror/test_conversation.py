"""Silence, ends and refusals become errors that say who must act."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import msgspec
import pytest

from isochrone.errors import PeerFault, Unavailable
from isochrone.mirror.capabilities import OURS
from isochrone.mirror.conversation import FIRST_SECONDS_MAX, SILENCE_SECONDS_MAX, Conversation
from isochrone.mirror.messages import Heartbeat, Hello, Reached, Refuse, Sync, Welcome
from isochrone.sim.fabric import SimFabric
from isochrone.sim.loop import run
from isochrone.sim.site import Site
from isochrone.world.net import Channel
from tests.mirror.messages import EXAMPLES
from tests.mirror.test_wire import frame, same

REACHED = Reached(floor=1, begun=2, step=0, volume=3, block=4, left=5)
Act = Callable[[Conversation, Channel, SimFabric], Awaitable[None]]


def talk(act: Act) -> None:
    """A conversation at one end, a bare channel at the other."""

    async def main() -> None:
        fabric = SimFabric(asyncio.get_running_loop(), Random(1))
        a, b = Site("a", fabric, 1), Site("b", fabric, 1)
        there: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
        over = asyncio.Event()

        async def handler(channel: Channel) -> None:
            there.set_result(channel)
            await over.wait()

        await a.world.net.listen("a:1", handler)
        here = Conversation(await b.world.net.connect("a:1"))
        await act(here, await there, fabric)
        over.set()

    run(main())


def test_messages_come_whole_and_in_order() -> None:
    async def act(here: Conversation, there: Channel, fabric: SimFabric) -> None:
        fabric.weather.pieces = 0.9
        for n, message in enumerate(EXAMPLES.values(), 1):
            there.write([frame(message, n)])
        for message in EXAMPLES.values():
            assert same(await here.receive(), message)
        other = Conversation(there)
        here.capabilities = frozenset(OURS)
        for message in EXAMPLES.values():
            await here.send(message)
            got = await other.receive()
            if isinstance(got, Hello | Welcome):
                assert set(OURS) <= set(got.capabilities)  # whoever sends it
                got = msgspec.structs.replace(got, capabilities=message.capabilities)
            assert same(got, message)

    talk(act)


def test_silence_has_an_end() -> None:
    async def act(here: Conversation, there: Channel, fabric: SimFabric) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(Unavailable, match="silent for 10 s"):
            await here.receive()
        assert loop.time() - began == pytest.approx(SILENCE_SECONDS_MAX, abs=0.1)

    talk(act)


def test_a_first_message_does_not_trickle_for_ever() -> None:
    async def act(here: Conversation, there: Channel, fabric: SimFabric) -> None:
        async def trickle() -> None:
            for byte in frame(EXAMPLES["data"]):
                there.write([bytes([byte])])
                await asyncio.sleep(SILENCE_SECONDS_MAX - 1)

        slow = asyncio.ensure_future(trickle())
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(Unavailable, match="nothing complete for 20 s"):
            await here.receive()
        assert loop.time() - began == pytest.approx(FIRST_SECONDS_MAX, abs=0.1)
        slow.cancel()

    talk(act)


def test_what_an_old_peer_does_not_know_is_not_sent() -> None:
    async def act(here: Conversation, there: Channel, fabric: SimFabric) -> None:
        there.write([frame(EXAMPLES["welcome"])])
        await here.receive()
        with pytest.raises(PeerFault, match="a:1 does not know images"):
            await here.send(REACHED)
        await here.send(EXAMPLES["sync"])

    talk(act)


def test_heartbeats_break_the_silence() -> None:
    async def act(here: Conversation, there: Channel, fabric: SimFabric) -> None:
        for n in range(1, 6):
            await asyncio.sleep(SILENCE_SECONDS_MAX - 1)
            there.write([frame(Heartbeat(stamp=n), n)])
            assert await here.receive() == Heartbeat(stamp=n)

    talk(act)


def test_the_end_of_a_connection() -> None:
    async def act(here: Conversation, there: Channel, fabric: SimFabric) -> None:
        there.write([frame(Sync(token=1))[:-1]])
        there.close()
        with pytest.raises(Unavailable, match="closed the connection"):
            await here.receive()
        await here.send(Sync(token=1))
        await asyncio.sleep(1)  # the other host answers that nobody is there
        with pytest.raises(Unavailable):
            await here.send(Sync(token=2))

    talk(act)


def test_damage_on_the_way() -> None:
    async def act(here: Conversation, there: Channel, fabric: SimFabric) -> None:
        fabric.weather.flip = 1.0
        there.write([frame(EXAMPLES["data"])])
        with pytest.raises((PeerFault, Unavailable)):
            await here.receive()

    talk(act)


def test_only_what_was_expected() -> None:
    async def act(here: Conversation, there: Channel, fabric: SimFabric) -> None:
        there.write([frame(Sync(token=3), 1), frame(Sync(token=4), 2)])
        there.write([frame(Refuse(code="Conflict", message="not here", hint="there"), 3)])
        assert await here.expect(Sync) == Sync(token=3)
        with pytest.raises(PeerFault, match="sent Sync, not Heartbeat"):
            await here.expect(Heartbeat)
        with pytest.raises(PeerFault, match="refuses: not here") as e:
            await here.expect(Heartbeat)
        assert e.value.hint == "there"

    talk(act)


def test_an_answer_comes_behind_heartbeats() -> None:
    async def act(here: Conversation, there: Channel, fabric: SimFabric) -> None:
        beat, sync = Heartbeat(stamp=1), Sync(token=3)
        refuse = Refuse(code="Conflict", message="not here")
        for number, message in enumerate((beat, beat, sync, beat, refuse, beat, sync), 1):
            there.write([frame(message, number)])
        assert await here.answer(Sync) == sync
        with pytest.raises(PeerFault, match="refuses: not here"):
            await here.answer(Sync)
        with pytest.raises(PeerFault, match="sent Sync, not Hello"):
            await here.answer(Hello)

    talk(act)


def test_a_last_word_arrives_and_does_not_wait_for_ever() -> None:
    async def act(here: Conversation, there: Channel, fabric: SimFabric) -> None:
        loop = asyncio.get_running_loop()
        there.write([frame(Sync(token=n), n) for n in range(1, 5)])
        word = asyncio.ensure_future(here.last_word(Sync(token=9)))
        assert await Conversation(there).receive() == Sync(token=9)
        there.close()
        began = loop.time()
        await word
        assert loop.time() - began < 1

    async def stubborn(here: Conversation, there: Channel, fabric: SimFabric) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await here.last_word(Sync(token=9))
        assert loop.time() - began <= SILENCE_SECONDS_MAX + 0.1

    talk(act)
    talk(stubborn)
