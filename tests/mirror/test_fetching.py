"""Blocks asked for by checksum: nothing else is told, and nothing else is taken."""

from __future__ import annotations

import pytest

from isochrone.errors import PeerFault
from isochrone.mirror import fetching
from isochrone.mirror.messages import Fetch, Fetched
from isochrone.store.format import checksum
from isochrone.types import BLOCK
from tests.mirror.sites import Two, fill, play

ONE, TWO = fill("one"), fill("two")
ASKED = fetching.question(7, 3, [(4, checksum(ONE)), (9, checksum(TWO))])


def test_what_was_asked_for_is_taken() -> None:
    told = Fetched(request=7, found=(9, 4), data=TWO + ONE)
    assert fetching.take(ASKED, told) == {4: ONE, 9: TWO}
    assert fetching.take(ASKED, Fetched(request=7)) == {}


@pytest.mark.parametrize(
    "told",
    [
        Fetched(request=8, found=(4,), data=ONE),
        Fetched(request=7, found=(4,), data=TWO),
        Fetched(request=7, found=(5,), data=ONE),
        Fetched(request=7, found=(4, 4), data=ONE + ONE),
        Fetched(request=7, found=(4, 9), data=ONE),
        Fetched(request=7, found=(4,), data=ONE[:-1]),
        Fetched(request=7, data=ONE),
    ],
)
def test_anything_else_is_not(told: Fetched) -> None:
    with pytest.raises(PeerFault):
        fetching.take(ASKED, told)


def test_an_answer_has_what_the_checksum_says_and_nothing_else() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 4, "one")
        pool = two.a.pool
        id = pool.state.names["db"]

        async def ask(message: Fetch) -> Fetched:
            return await two.a.call(fetching.answer(pool, {3: id}, message))

        told = await ask(ASKED)
        assert (told.found, told.data) == ((4,), ONE)
        assert (await ask(fetching.question(1, 3, [(1 << 60, checksum(ONE))]))).found == ()
        assert (await ask(fetching.question(1, 3, [(4, 0)]))).data == b""
        with pytest.raises(PeerFault, match="not of this group"):
            await ask(fetching.question(1, 4, [(4, checksum(ONE))]))
        with pytest.raises(PeerFault, match="bytes"):
            await ask(Fetch(request=1, volume=3, blocks=(4,), sums=bytes(BLOCK)[:16]))

    play(scenario)
