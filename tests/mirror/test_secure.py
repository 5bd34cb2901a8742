"""TLS keeps the contract of all nets; only enrolled sites get in, and only for as long."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import msgspec
import pytest

from isochrone.errors import Conflict, InvalidInput, IsochroneError, PeerFault, Unavailable
from isochrone.mirror import secure
from isochrone.mirror.capabilities import CAPABILITIES, Capability
from isochrone.mirror.conversation import Conversation
from isochrone.mirror.messages import Fence, Fenced, Hello, Refuse, Sync
from isochrone.mirror.peers import Peer, Peers, Role
from isochrone.mirror.secure import HANDSHAKE_SECONDS_MAX, SecuredNet, TlsChannel
from isochrone.sim.fabric import SimFabric
from isochrone.sim.loop import run
from isochrone.sim.site import Site
from isochrone.types import BLOCK, Buffer
from isochrone.world.clock import SystemClock
from isochrone.world.net import Channel, SystemNet
from tests.contract.channel import ChannelContract, Scenario
from tests.mirror.drawer import peer, site
from tests.mirror.locked import LockedTwo, play_locked
from tests.mirror.sites import GROUP, sleep, until


class Anywhere(SecuredNet):
    """Whatever the address, the one peer answers there."""

    def _peer_at(self, address: str) -> Peer | None:
        found = super()._peer_at(address)
        return found or msgspec.structs.replace(self._peers.all[0], address=address)


@pytest.fixture(scope="module")
def sites() -> Iterator[tuple[Peers, Peers]]:
    with tempfile.TemporaryDirectory() as folder:
        east, west = site(Path(folder, "e"), "east"), site(Path(folder, "w"), "west")
        east.admit(peer(west))
        west.admit(peer(east))
        yield east, west


class TestTls(ChannelContract):
    @pytest.fixture(autouse=True)
    def known(self, sites: tuple[Peers, Peers]) -> None:
        self.sites = sites

    def play(self, scenario: Scenario) -> None:
        async def main() -> None:
            fabric = SimFabric(asyncio.get_running_loop(), Random(1))
            a, b = Site("a", fabric, 1), Site("b", fabric, 2)
            server = Anywhere(a.world.net, self.sites[0], a.world.clock)
            client = Anywhere(b.world.net, self.sites[1], b.world.clock)
            await scenario(server, client, "a:1")

        run(main())

    def nowhere(self) -> str:
        return "a:2"


class TestTlsOverTcp(TestTls):
    def play(self, scenario: Scenario) -> None:
        async def main() -> None:
            nets = [Anywhere(SystemNet(), peers, SystemClock()) for peers in self.sites]
            await scenario(nets[0], nets[1], "127.0.0.1:0")
            await asyncio.sleep(0.01)

        asyncio.run(main())

    def nowhere(self) -> str:
        return "127.0.0.1:1"


# -- who gets in


def test_a_mirror_over_tls_and_its_names(tmp_path: Path) -> None:
    async def scenario(two: LockedTwo) -> None:
        assert two.same("db", "wal")
        [session] = two.a.group().sessions.values()
        assert session.site == "b"
        assert two.a.net.connections("b") == two.b.net.connections("a") == 1
        two.a.write("db", 1, "more")
        two.fabric.cut("a", "b")
        await sleep(20)
        two.fabric.heal_all()
        await two.b.wait()
        assert two.same("db", "wal")
        await two.b.restart()
        await two.b.wait()

    play_locked(tmp_path, scenario)


def test_the_site_is_an_address(tmp_path: Path) -> None:
    async def scenario(two: LockedTwo) -> None:
        await two.b.call(two.b.mirrors.add(GROUP, "a"))
        await two.b.wait()
        assert two.same("db")

    play_locked(tmp_path, scenario, mirrored=False)


def test_revoked_at_once_and_for_good(tmp_path: Path) -> None:
    async def scenario(two: LockedTwo) -> None:
        two.a.peers.revoke("b")
        await until(lambda: two.b.status().state == "SUSPENDED", 2)
        two.a.write("db", 1, "kept from it")
        await until(lambda: "TLS with a" in two.b.status().cause, 30)
        assert two.b.says("db", 1) == ""
        assert not two.a.net.connections("b")
        await two.b.join(two.a)
        await two.b.wait()
        assert two.b.says("db", 1) == "kept from it"

    play_locked(tmp_path, scenario)


def test_revoked_while_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(two: LockedTwo) -> None:
        handshake = TlsChannel.handshake

        async def late(channel: TlsChannel) -> None:
            await handshake(channel)
            if two.b.peers.named("a") and channel.peer == two.a.address:
                two.b.peers.revoke("a")

        monkeypatch.setattr(TlsChannel, "handshake", late)
        with pytest.raises(Unavailable, match="revoked"):
            await two.b.call(two.b.net.connect("a"))
        assert two.b.net.connections("a") == 0

    play_locked(tmp_path, scenario, mirrored=False)


def test_a_stranger_is_not_answered(tmp_path: Path) -> None:
    async def scenario(two: LockedTwo) -> None:
        with pytest.raises(Conflict, match="belongs to no enrolled site"):
            await two.b.call(two.b.mirrors.add(GROUP, two.a.address))
        with pytest.raises(InvalidInput, match="neither an address nor an enrolled site"):
            await two.b.call(two.b.mirrors.add(GROUP, "a"))
        two.b.peers.admit(peer(two.a.peers, name="a", address=two.a.address))
        with pytest.raises(PeerFault, match="TLS with a"):  # a does not know b
            await two.b.call(two.b.mirrors.add(GROUP, "a"))
        assert two.a.group().sessions == {}

    play_locked(tmp_path, scenario, joined=False)


def test_somebody_else_answers(tmp_path: Path) -> None:
    async def scenario(two: LockedTwo) -> None:
        other = site(tmp_path / "c", "c")
        two.b.peers.admit(peer(other, name="a", address=two.a.address))
        with pytest.raises(PeerFault, match="is not site a: it has another certificate"):
            await two.b.call(two.b.mirrors.add(GROUP, "a"))

    play_locked(tmp_path, scenario, joined=False)


def test_plain_bytes_get_nothing(tmp_path: Path) -> None:
    async def scenario(two: LockedTwo) -> None:
        async def knock() -> bytes:
            channel = await two.b.site.world.net.connect(two.a.address)
            channel.write([b"ILNK" + bytes(60)])
            return await channel.read()

        answer = await two.b.call(knock())
        assert len(answer) < 16, "an alert of TLS at most"
        assert b"ILNK" not in answer

    play_locked(tmp_path, scenario, joined=False)


def test_idle_strangers_are_few_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secure, "STRANGERS_MAX", 3)

    async def scenario(two: LockedTwo) -> None:
        async def knock() -> Channel:
            return await two.b.site.world.net.connect(two.a.address)

        idle = [await two.b.call(knock()) for _ in range(3)]
        await sleep(0.1)
        late = await two.b.call(knock())
        assert await two.b.call(late.read()) == b""
        began = asyncio.get_running_loop().time()
        for channel in idle:
            assert await two.b.call(channel.read()) == b""
        assert asyncio.get_running_loop().time() - began < HANDSHAKE_SECONDS_MAX + 1
        await two.b.join(two.a)

    play_locked(tmp_path, scenario, joined=False)


def test_one_host_does_not_keep_others_from_proving_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secure, "STRANGERS_OF_ONE_MAX", 2)

    async def scenario(two: LockedTwo) -> None:
        async def knock() -> Channel:
            return await two.a.site.world.net.connect(two.a.address)

        idle = [await two.a.call(knock()) for _ in range(2)]
        await sleep(0.1)
        assert await two.a.call((await two.a.call(knock())).read()) == b""
        await two.b.join(two.a)  # from another host
        for channel in idle:
            channel.close()

    play_locked(tmp_path, scenario, joined=False)


# -- what they may


async def say(two: LockedTwo, message: Hello | Fence) -> object:
    async def talk() -> object:
        conversation = Conversation(await two.b.net.connect("a"))
        try:
            await conversation.send(message)
            return await conversation.receive()
        finally:
            conversation.close()

    return await two.b.call(talk())


def fence(two: LockedTwo) -> Fence:
    group = two.a.group()
    return Fence(group=GROUP, lineage=group.lineage, epoch=group.epoch + 1)


def hello(two: LockedTwo, **changes: object) -> Hello:
    plain = Hello(pool=two.b.pool.identity, group=GROUP, lineage="", epoch=0, cut=0)
    return msgspec.structs.replace(plain, **changes)


def refused(answer: object, words: str) -> None:
    assert isinstance(answer, Refuse)
    assert answer.code == "NotAllowed"
    assert words in answer.message


def test_only_who_may_take_over_fences(tmp_path: Path) -> None:
    async def scenario(two: LockedTwo) -> None:
        refused(await say(two, fence(two)), "role replicate: it may not take a group over")
        lineage = two.a.group().lineage
        newer = hello(two, lineage=lineage, epoch=two.a.group().epoch + 1)
        refused(await say(two, newer), "role replicate")
        assert two.a.group().role == "primary"

    play_locked(tmp_path, scenario, role=Role.REPLICATE)


def test_only_who_follows_the_group_fences_it(tmp_path: Path) -> None:
    async def scenario(two: LockedTwo) -> None:
        refused(await say(two, fence(two)), "nothing to do with this group")
        assert two.a.group().role == "primary"
        await two.mirror()
        assert isinstance(await say(two, fence(two)), Fenced)
        assert two.a.group().role == "fenced"

    play_locked(tmp_path, scenario, mirrored=False)


def test_nobody_speaks_for_another(tmp_path: Path) -> None:
    async def scenario(two: LockedTwo) -> None:
        refused(await say(two, hello(two, pool="ee" * 16)), "the certificate is that of site b")

    play_locked(tmp_path, scenario)


def test_who_may_not_says_it_as_often_as_it_likes(tmp_path: Path) -> None:
    """Each refusal waits for the other side to hang up; refusals do not wait for each other."""

    async def scenario(two: LockedTwo) -> None:
        async def flood() -> None:
            conversation = Conversation(await two.b.net.connect("a"))
            frames: list[Buffer] = []
            for _ in range(2000):
                frames += conversation.link.send(fence(two))
            conversation._channel.write(frames)
            with suppress(Unavailable):
                while True:
                    answers.append(await conversation.receive())
            conversation.close()

        answers: list[object] = []
        await two.b.call(flood())
        refused(answers[0], "role replicate")
        assert len(answers) == 1
        assert two.a.group().role == "primary"
        await two.b.wait()

    play_locked(tmp_path, scenario, role=Role.REPLICATE)


# -- how it goes wrong


def test_strangers_are_not_counted_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when what makes the lock cannot be read just then."""
    monkeypatch.setattr(secure, "STRANGERS_MAX", 2)

    async def scenario(two: LockedTwo) -> None:
        token = two.a.enrolment.invite(Role.TAKEOVER, 600, "").text()
        key = Path(two.a.peers.identity_path)
        away = key.rename(key.with_suffix(".away"))
        for _ in range(3):
            with pytest.raises(IsochroneError):
                await two.b.call(two.b.enrolment.join(token, Role.TAKEOVER, ""))
        away.rename(key)
        await two.b.call(two.b.enrolment.join(token, Role.TAKEOVER, ""))

    play_locked(tmp_path, scenario, joined=False)


def test_bits_that_flip_end_a_connection(sites: tuple[Peers, Peers]) -> None:
    async def main() -> None:
        fabric = SimFabric(asyncio.get_running_loop(), Random(1))
        a, b = Site("a", fabric, 1), Site("b", fabric, 2)
        server = Anywhere(a.world.net, sites[0], a.world.clock)
        client = Anywhere(b.world.net, sites[1], b.world.clock)
        got: list[bytes] = []

        async def handler(channel: Channel) -> None:
            while data := await channel.read():
                got.append(data)

        await server.listen("a:1", handler)
        channel = await client.connect("a:1")
        assert isinstance(channel, TlsChannel)
        fabric.weather.flip = 1.0
        channel.write([b"x" * BLOCK])
        with suppress(IsochroneError):
            assert await channel.read() == b""
        assert got == []
        with pytest.raises(IsochroneError):
            await client.connect("a:1")

    run(main())


def test_a_limit_holds_and_can_be_changed(tmp_path: Path) -> None:
    async def scenario(two: LockedTwo) -> None:
        loop = asyncio.get_running_loop()
        two.a.peers.limit("b", "64KiB/s")
        began = loop.time()
        for block in range(768):  # three MiB that do not shrink
            two.a.write("db", block, f"n{block}")
        await sleep(25)
        assert two.b.says("db", 767) == ""
        assert two.b.status().state == "DUPLEX", "it is slow, and not dead"
        await two.b.wait()
        assert 40 < loop.time() - began < 50
        assert two.a.net.valve("b").waited_s > 25
        two.a.peers.limit("b", "")
        began = loop.time()
        for block in range(512):
            two.a.write("db", block, f"m{block}")
        await two.b.wait()
        assert loop.time() - began < 3

    play_locked(tmp_path, scenario)


def test_conversations_without_a_lock_know_no_site() -> None:
    async def main() -> None:
        fabric = SimFabric(asyncio.get_running_loop(), Random(1))
        a = Site("a", fabric, 1)

        async def handler(channel: Channel) -> None:
            await channel.read()

        await a.world.net.listen("a:1", handler)
        talk = Conversation(await a.world.net.connect("a:1"))
        assert talk.site == ""
        await talk.send(Sync(token=1))

    run(main())


def test_plain_links_have_the_limit_of_all_others(tmp_path: Path) -> None:
    """And no names: that is how it was before there were certificates."""

    async def main() -> None:
        two = LockedTwo(tmp_path, 1, 0.2)
        two.a.named = two.b.named = False
        await two.a.start()
        await two.b.start()
        await two.make()
        await two.mirror()
        assert [session.site for session in two.a.group().sessions.values()] == [""]
        two.a.peers.limit("*", "1MiB/s")
        began = asyncio.get_running_loop().time()
        for block in range(768):
            two.a.write("db", block, f"n{block}")
        await two.b.wait()
        assert 1.9 < asyncio.get_running_loop().time() - began < 4

    run(main())


def test_a_secondary_that_is_too_old_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = Capability("something new", needed=lambda state, group: True)

    async def scenario(two: LockedTwo) -> None:
        monkeypatch.setitem(CAPABILITIES, "something", new)  # at the primary: OURS stays old
        with pytest.raises(PeerFault, match="needs something, which the secondary") as e:
            await two.b.call(two.b.mirrors.add(GROUP, "a"))
        assert "upgrade the secondary first" in e.value.hint
        assert two.a.group().sessions == {}

    play_locked(tmp_path, scenario, mirrored=False)


def test_who_takes_over_is_followed_by_its_name(tmp_path: Path) -> None:
    async def scenario(two: LockedTwo) -> None:
        odd = msgspec.structs.replace(fence(two), source="elsewhere:1")
        assert isinstance(await say(two, odd), Fenced)
        assert "elsewhere" not in str(two.a.group())

    play_locked(tmp_path, scenario)
