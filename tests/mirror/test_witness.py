"""What the primary tells of its tracks, and that nobody makes it tell, or keep, too much."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from isochrone.errors import PeerFault, Unavailable
from isochrone.mirror import messages
from isochrone.mirror.conversation import Conversation
from isochrone.mirror.messages import Heartbeat, Verified, Verify
from isochrone.mirror.mover import greet
from isochrone.mirror.witness import FROZEN_CUTS, FROZEN_SECONDS, pack, unpack
from tests.mirror.sites import Two, play, sleep, until


@given(st.integers(0, 100), st.integers(1, 200), st.sets(st.integers(0, 400)))
def test_tracks_there_and_back(first: int, count: int, tracks: set[int]) -> None:
    bits = pack(BitMap(tracks), first, count)
    assert set(unpack(bits, first, count)) == tracks & set(range(first, first + count))


def test_bits_of_another_number_of_tracks() -> None:
    with pytest.raises(PeerFault):
        unpack(b"\x80", 0, 9)


class Asker:
    """A secondary that says what it likes."""

    def __init__(self, two: Two) -> None:
        self._two = two
        self.talk: Conversation

    async def begin(self) -> None:
        await self._two.b.call(self._begin())

    async def _begin(self) -> None:
        pool = self._two.b.pool
        self.talk = Conversation(await pool.world.net.connect(self._two.a.address))
        await greet(pool, self.talk, pool.state.groups["g"], purpose="verify")

    async def ask(self, message: messages.Message, beats: int = 0) -> Verified:
        async def one() -> Verified:
            await self.talk.send(message)  # type: ignore[arg-type]
            while not isinstance(told := await self.talk.receive(), Verified):
                assert isinstance(told, Heartbeat)
            return told

        found: Verified = await self._two.b.call(one())
        return found


def question(two: Two, **changed: object) -> Verify:
    group = two.a.pool.state.groups["g"]
    fields = {
        "cut": two.b.group().cut, "volume": group.volumes[0], "track": 0, "count": 64,
        "whole": bytes(8),
    }  # fmt: skip
    return Verify(**(fields | changed))  # type: ignore[arg-type]


def test_what_did_not_change_is_told_as_it_was() -> None:
    async def scenario(two: Two) -> None:
        asker = Asker(two)
        await asker.begin()
        told = await asker.ask(question(two))
        assert (told.known, told.unstable, told.same, len(told.digests)) == (True, b"", False, 512)
        two.a.mirrors.suspend("g")
        two.a.write("db", 33, "new")
        told = await asker.ask(question(two))
        assert unpack(told.unstable, 0, 64) == BitMap([2])
        assert not (await asker.ask(question(two, cut=77))).known

    play(scenario)


@pytest.mark.parametrize(
    "nonsense",
    [
        {"volume": 99},
        {"sums": True, "count": 300},
        {"track": 1 << 30},
        {"track": 1 << 61},
        {"fetch": True},
    ],
    ids=["another volume", "too many blocks", "too far", "much too far", "fetch of another volume"],
)
def test_nonsense_ends_the_connection_and_nothing_else(nonsense: dict[str, object]) -> None:
    async def scenario(two: Two) -> None:
        asker = Asker(two)
        await asker.begin()
        message: messages.Message = messages.Fetch(request=1, volume=99, blocks=(1,), sums=bytes(8))
        if "fetch" not in nonsense:
            message = question(two, **nonsense)
        with pytest.raises(Unavailable):
            await asker.ask(message)
        two.a.write("db", 1, "on")
        await two.b.wait()

    play(scenario)


def test_tracks_beyond_the_end_are_empty() -> None:
    async def scenario(two: Two) -> None:
        asker = Asker(two)
        await asker.begin()
        for track in (64, 1 << 20):
            told = await asker.ask(question(two, track=track, read=True))
            assert (told.digests, told.damaged, told.size) == (b"", (), 4 << 20)

    play(scenario)


def test_images_are_few_and_let_go() -> None:
    async def scenario(two: Two) -> None:
        asker = Asker(two)
        await asker.begin()
        await asker.ask(question(two, freeze=True))
        pins = two.a.pool.state.pins
        for n in range(8):
            two.a.write("db", 0, f"{n}")
            await two.b.wait()
            assert len(pins) <= 2 * FROZEN_CUTS
        assert pins
        told = await asker.ask(question(two))
        assert (told.known, told.unstable) == (True, b"")
        for _ in range(int(FROZEN_SECONDS / 5) + 2):
            await asker.ask(question(two))
            await sleep(5)
        assert not pins, "nobody has asked for images for a while"
        await asker.ask(question(two, freeze=True))
        two.a.write("db", 0, "again")
        await two.b.wait()
        assert pins
        asker.talk.close()
        await until(lambda: not pins)

    play(scenario)
