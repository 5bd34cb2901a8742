"""What a primary sends, within the credit it has."""

from __future__ import annotations

import asyncio
import errno
from array import array
from random import Random
from typing import Any

import pytest

from isochrone.errors import Damaged
from isochrone.mirror import groups
from isochrone.mirror.messages import Data, Holes
from isochrone.mirror.packing import Packing
from isochrone.mirror.sending import Sender
from isochrone.mirror.sidefile import Blocks, HoleRanges
from isochrone.sim.fabric import SimFabric
from isochrone.sim.loop import run
from isochrone.sim.site import Site
from isochrone.store import volumes
from isochrone.store.catalogue import Mark
from isochrone.store.pool import Pool
from isochrone.types import BLOCK
from tests.mirror.sites import LIMITS, fill


class Talk:
    def __init__(self) -> None:
        self.packing = Packing()
        self.said: list[Any] = []

    async def send(self, message: Any) -> None:
        self.said.append(message)


def quiet_sender() -> tuple[Pool, Talk, Sender]:
    """A sender over an empty pool; nobody listens to its heartbeats."""
    site = Site("a", SimFabric(asyncio.get_running_loop(), Random(1)), 1)

    async def beat() -> None:
        pass

    pool, talk = Pool.open(site.disk, site.world, LIMITS), Talk()
    return pool, talk, Sender(pool, talk, beat)  # type: ignore[arg-type]


def test_data_waits_for_credit_and_the_other_side_hears_that_we_are_alive() -> None:
    async def main() -> None:
        site = Site("a", SimFabric(asyncio.get_running_loop(), Random(1)), 1)
        beats = 0

        async def beat() -> None:
            nonlocal beats
            beats += 1

        talk = Talk()
        out = Sender(Pool.open(site.disk, site.world, LIMITS), talk, beat)  # type: ignore[arg-type]
        assert await out.item(HoleRanges(((1, 0, 16),))) == 0
        one, payload = array("Q", [0]), fill("x")
        sending = asyncio.ensure_future(out.blocks(1, one, one, payload))
        await asyncio.sleep(3.5)
        assert beats == 3
        assert [type(message) for message in talk.said] == [Holes]
        out.credit += 1
        out.news.set()
        assert await sending == 1
        assert out.credit == 1 - BLOCK
        assert isinstance(talk.said[-1], Data)

    run(main())


def test_packing_is_tried_beside_the_loop_and_others_run_meanwhile() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        _, talk, out = quiet_sender()
        out.credit = 1 << 30
        blocks, noise = array("Q", range(4)), Random(1).randbytes(4 * BLOCK)
        for payload in (bytes(4 * BLOCK), noise, noise, noise):
            turns: list[int] = []
            # As a request that arrives: it is read, and the turn for it is begun behind that.
            loop.call_soon(loop.call_soon, turns.append, 1)
            await out.blocks(1, blocks, blocks, payload)
            assert turns, "a client waited for more than one frame"
        packed = [message.packed for message in talk.said]
        assert packed[0] and packed[1:] == [b"", b"", None], "the last one is left to the link"
        assert talk.packing.tried == 3
        assert [bytes(message.payload) for message in talk.said][1:] == [noise, noise, noise]

    run(main())


def test_blocks_that_the_disk_cannot_read_are_damage_that_may_be_healed() -> None:
    """As for a client that reads them: else nobody would ask the other site for them."""

    async def main() -> None:
        met: list[Any] = []
        pool, _, out = quiet_sender()
        volumes.create(pool, "v", 1 << 20)
        pool.stage_write(1, 5, memoryview(fill("x")))
        pool.commit()
        pointer, sum = pool.state.forest.at(pool.state.tables[1], 5)
        item = Blocks(1, array("Q", [5]), array("Q", [pointer]), array("Q", [sum]))
        out.credit = 1 << 30
        assert await out.item(item) == 1
        pool.on_damage.append(lambda *spot: met.append(spot))

        def read_at(length: int, offset: int) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

        pool.log.file(1).read_at = read_at  # type: ignore[method-assign]
        with pytest.raises(Damaged, match="cannot read"):
            await out.item(item)
        assert met == [(1, 5, 1)]

    run(main())


def test_a_log_that_is_given_back_while_it_is_read_is_no_damage() -> None:
    """The side file was given up: images lead on, and nobody has to hang up."""

    async def main() -> None:
        pool, _, out = quiet_sender()
        volumes.create(pool, "v", 4 << 20)
        groups.create(pool, "g", ("v",))
        group, base = pool.state.groups["g"], pool.log.lsn
        for n in range(5 << 8):
            pool.stage_write(1, n % 1024, memoryview(fill(str(n))))
            pool.commit()
        await pool.flush()
        assert len(pool.log.first_lsns) > 1
        given_up: list[int] = []

        def give_up() -> None:
            given_up.append(1)
            for number in list(pool.log.first_lsns)[:-1]:
                pool.log.remove(number)

        def kept() -> bool:
            if not given_up:
                asyncio.get_running_loop().call_soon(give_up)
            return not given_up

        since, to = Mark(1, base, 0, 0), Mark(2, pool.log.lsn, 0, 0)
        assert await out.window(group, since, to, (1,), kept) is None
        assert given_up
        assert not out.log_unreadable
        # The same without anybody who gave it up: that is damage, and images do without the log.
        assert await out.window(group, since, to, (1,), lambda: True) is None
        assert out.log_unreadable

    run(main())
