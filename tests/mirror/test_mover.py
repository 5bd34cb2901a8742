"""The secondary's end, with a real primary and with one that is played by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from pyroaring import BitMap

from isochrone.dr import failover
from isochrone.errors import Conflict, PeerFault, StaleEpoch, Unavailable
from isochrone.mirror import groups, mover
from isochrone.mirror.capabilities import OURS
from isochrone.mirror.conversation import Conversation
from isochrone.mirror.messages import (
    Begin,
    Command,
    Credit,
    Cut,
    Diverged,
    Fence,
    Fenced,
    Heartbeat,
    Hello,
    Holdings,
    Pull,
    Refuse,
    RemoteVolume,
    Sync,
    Welcome,
)
from isochrone.mirror.mover import CREDIT_BYTES, CREDIT_STEP_BYTES, Mover
from isochrone.mirror.pairs import Pair
from isochrone.store import records as r
from isochrone.store import volumes
from isochrone.types import BLOCK, MIB
from isochrone.world.net import Channel
from tests.mirror.messages import data
from tests.mirror.sites import GROUP, Two, fill, play, until

LINEAGE = "11" * 16
VOLUMES = (RemoteVolume(70, "db", MIB), RemoteVolume(71, "wal", MIB))
WELCOME = Welcome(pool="aa" * 16, lineage=LINEAGE, epoch=1, cut=0, resume=False, volumes=VOLUMES)


class Played:
    """A primary that says what a test wants, one connection after the other."""

    def __init__(self, two: Two) -> None:
        self.two = two
        self.talks: asyncio.Queue[Conversation] = asyncio.Queue()
        self.mover: Mover

    async def start(self) -> None:
        async def handler(channel: Channel) -> None:
            talk = Conversation(channel)
            self.talks.put_nowait(talk)
            while not channel.over:  # type: ignore[attr-defined]
                await asyncio.sleep(0.5)

        await self.two.a.site.world.net.listen("a:9", handler)
        self.two.b.pool.record(r.MirrorAdded(group=GROUP, source="a:9"))
        await self.two.b.call(self.two.b.mirrors.start())
        self.mover = self.two.b.mirrors.mover(GROUP)

    async def greeted(self, **changed: Any) -> tuple[Conversation, Hello]:
        """The next connection, answered with WELCOME."""
        while True:
            talk = await self.talks.get()
            with suppress(Unavailable):  # one of an earlier life
                hello = await talk.expect(Hello)
                break
        welcome = {name: getattr(WELCOME, name) for name in WELCOME.__struct_fields__}
        await talk.send(Welcome(**{**welcome, **changed}))
        return talk, hello

    async def next(self, talk: Conversation) -> Any:
        while isinstance(message := await talk.receive(), Heartbeat | Credit | Holdings):
            pass
        return message

    async def cut(self, talk: Conversation, cut: int, base: int, *blocks: int, **more: Any) -> None:
        """A whole group, and the PULL after it."""
        await talk.send(Begin(base=base, cut=cut, volumes=VOLUMES))
        for at in blocks:
            await talk.send(data(70, [at], fill(f"{cut}")))
        fields = {"stamp": cut, "blocks": len(blocks), "token": 0, **more}
        await talk.send(Cut(cut=cut, **fields))
        assert await self.next(talk) == Pull(cut=cut, credit=CREDIT_BYTES)

    async def suspended(self, words: str) -> None:
        await until(lambda: self.mover.state is Pair.SUSPENDED and words in self.mover.cause)


def with_secondary(act: Callable[[Two, Played], Awaitable[None]]) -> None:
    async def scenario(two: Two) -> None:
        me = Played(two)
        await me.start()
        await act(two, me)

    play(scenario, made=False)


def test_the_greeting_says_what_is_here() -> None:
    async def act(two: Two, me: Played) -> None:
        talk, hello = await me.greeted()
        assert hello == Hello(
            pool=two.b.pool.identity, group=GROUP, lineage="", epoch=0, cut=0, purpose="follow",
            capabilities=OURS,
        )  # fmt: skip
        assert await me.next(talk) == Pull(cut=0, credit=CREDIT_BYTES)
        await me.cut(talk, 5, 0, 3, 4)
        assert two.b.says("db", 3) == "5"
        talk.close()
        talk, hello = await me.greeted(resume=True, cut=5)
        assert (hello.lineage, hello.epoch, hello.cut) == (LINEAGE, 1, 5)
        assert await me.next(talk) == Pull(cut=5, credit=CREDIT_BYTES)
        assert me.mover.state is Pair.DUPLEX

    with_secondary(act)


def test_states_of_a_first_copy() -> None:
    async def act(two: Two, me: Played) -> None:
        assert me.mover.state is Pair.PENDING
        talk, _ = await me.greeted()
        await me.next(talk)
        await talk.send(Begin(base=0, cut=1, volumes=VOLUMES))
        await until(lambda: me.mover.state is Pair.COPYING)
        talk.close()
        await me.suspended("closed the connection")
        talk, _ = await me.greeted()
        await me.next(talk)
        await me.cut(talk, 2, 0)
        assert me.mover.state is Pair.DUPLEX
        assert me.mover.cause == ""

    with_secondary(act)


def test_a_commit_is_durable_before_it_is_confirmed() -> None:
    async def act(two: Two, me: Played) -> None:
        durable = []
        two.b.pool.on_change.append(
            lambda lsn, record: (
                durable.append(lsn) if isinstance(record, r.IncomingCommitted) else None
            )
        )
        talk, _ = await me.greeted()
        await me.next(talk)
        await me.cut(talk, 1, 0, 3)
        assert durable[0] <= two.b.pool.log.durable
        await two.b.restart()
        assert two.b.group().cut == 1

    with_secondary(act)


def test_credit_is_given_back_for_what_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """In steps that are a small part of all of it, so that the other side never waits for one."""
    assert CREDIT_STEP_BYTES * 8 <= CREDIT_BYTES
    monkeypatch.setattr(mover, "CREDIT_STEP_BYTES", 5 * BLOCK)

    async def act(two: Two, me: Played) -> None:
        talk, _ = await me.greeted()
        await me.next(talk)
        await talk.send(Begin(base=0, cut=1, volumes=VOLUMES))
        for _ in range(4):
            await talk.send(data(70, [1, 2, 3], fill("x") * 3))
        given = []
        while len(given) < 2:
            if isinstance(message := await talk.receive(), Credit):
                given.append(message.bytes)
        assert given == [6 * BLOCK, 6 * BLOCK]
        assert me.mover.bytes_incoming == 12 * BLOCK

    with_secondary(act)


def test_it_says_that_it_is_alive() -> None:
    async def act(two: Two, me: Played) -> None:
        talk, _ = await me.greeted()
        await me.next(talk)
        for _ in range(15):
            assert isinstance(await talk.receive(), Heartbeat)
            await talk.send(Heartbeat(stamp=1))
        assert me.talks.empty()

    with_secondary(act)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"volumes": ()}, "has no volumes"),
        ({"volumes": (RemoteVolume(1, "a@b", MIB),)}, "bad name"),
        ({"volumes": (RemoteVolume(1, "a", 0),)}, "of 0 bytes"),
        ({"volumes": (RemoteVolume(1, "mine", MIB),)}, "'mine' here already"),
        ({"resume": True}, "nothing is here"),
    ],
)
def test_a_welcome_that_is_not_taken(changed: dict[str, Any], words: str) -> None:
    async def act(two: Two, me: Played) -> None:
        volumes.create(two.b.pool, "mine", MIB)
        await me.greeted(**changed)
        await me.suspended(words)
        assert two.b.group().incoming is None
        talk, _ = await me.greeted()  # and a better one is taken afterwards
        await me.next(talk)
        await me.cut(talk, 1, 0)
        assert me.mover.state is Pair.DUPLEX

    with_secondary(act)


@pytest.mark.parametrize(
    ("changed", "error"), [({"epoch": 1}, StaleEpoch), ({"lineage": "22" * 16}, Conflict)]
)
def test_a_stale_or_foreign_history_is_not_taken(changed: dict[str, Any], error: Any) -> None:
    async def act(two: Two, me: Played) -> None:
        talk, _ = await me.greeted(epoch=2)
        await me.next(talk)
        await me.cut(talk, 3, 0, 1)
        talk.close()
        await me.greeted(**{"epoch": 2, **changed})
        await me.suspended("epoch 2 is known here" if error is StaleEpoch else "another history")
        assert two.b.says("db", 1) == "3"

    with_secondary(act)


def test_a_newer_epoch_is_not_mixed_with_what_is_here() -> None:
    """It comes from another site, whose volumes have other ids and whose cuts other numbers."""

    async def act(two: Two, me: Played) -> None:
        talk, _ = await me.greeted()
        await me.next(talk)
        await me.cut(talk, 100, 0, 1)
        talk.close()
        _, hello = await me.greeted(epoch=2, cut=50)
        assert hello.epoch == 1
        await me.suspended("epoch 2, after a failover; epoch 1 is here")
        assert two.b.says("db", 1) == "100"
        assert two.b.group().epoch == 1

    with_secondary(act)


@pytest.mark.parametrize(
    "message",
    [
        Sync(token=1),
        Pull(cut=0, credit=0),
        Fenced(epoch=1),
        WELCOME,
        Cut(cut=1, stamp=1, blocks=0, token=0),
        Command(body=r.encode(r.CopyDeleted(name="c1"))),
        data(70, [0], fill("x")),
        Refuse(code="Conflict", message="enough"),
    ],
    ids=lambda m: type(m).__name__,
)
def test_nonsense_suspends_and_the_mover_lives_on(message: Any) -> None:
    async def act(two: Two, me: Played) -> None:
        talk, _ = await me.greeted()
        await me.next(talk)
        await talk.send(message)
        await until(lambda: me.mover.state is Pair.SUSPENDED)
        assert me.mover.cause
        await two.b.restart(power=False)  # and no poison was left in the log
        me.mover = two.b.mirrors.mover(GROUP)
        talk, _ = await me.greeted()
        await me.next(talk)
        await me.cut(talk, 1, 0)
        assert me.mover.state is Pair.DUPLEX

    with_secondary(act)


def test_it_comes_back_sooner_and_later() -> None:
    async def act(two: Two, me: Played) -> None:
        times = []
        loop = asyncio.get_running_loop()
        for _ in range(12):
            talk = await me.talks.get()
            times.append(loop.time())
            talk.close()
        gaps = [b - a for a, b in pairwise(times)]
        assert gaps[0] < 0.5
        assert 2.0 < max(gaps) < 6.0
        talk, _ = await me.greeted()
        await me.next(talk)
        await me.cut(talk, 1, 0)
        talk.close()
        began = loop.time()
        await me.talks.get()
        assert loop.time() - began < 0.5

    with_secondary(act)


# -- the recovery point


def test_the_recovery_point_follows_cuts_and_clean_heartbeats() -> None:
    async def act(two: Two, me: Played) -> None:
        clock = two.a.site.clock
        assert me.mover.recovery_point == 0
        assert me.mover.recovery_point_age == -1.0
        talk, _ = await me.greeted()
        await me.next(talk)
        stamp = clock.wall_ns()
        await me.cut(talk, 1, 0, stamp=stamp)
        assert me.mover.recovery_point == stamp
        await talk.send(Heartbeat(stamp=stamp + 5, clean=1))
        await until(lambda: me.mover.recovery_point == stamp + 5)
        await talk.send(Heartbeat(stamp=stamp + 9, clean=7))  # of a cut that is not here
        await talk.send(Heartbeat(stamp=stamp + 10, behind_bytes=100))
        await until(lambda: me.mover.behind_bytes == 100)
        assert me.mover.recovery_point == stamp + 5
        assert me.mover.last_heard == stamp + 10
        await talk.send(Heartbeat(stamp=stamp + 11, behind_bytes=-1))
        await until(lambda: me.mover.last_heard == stamp + 11)
        assert me.mover.behind_bytes == -1

    with_secondary(act)


def test_a_clock_that_jumps_back_does_not_promise_too_much() -> None:
    """What was clean at an hour that has not come yet says nothing about the next cut."""

    async def act(two: Two, me: Played) -> None:
        talk, _ = await me.greeted()
        await me.next(talk)
        stamp, hour = two.a.site.clock.wall_ns(), 3600 * 10**9
        await me.cut(talk, 1, 0, stamp=stamp)
        await talk.send(Heartbeat(stamp=stamp + hour, clean=1))
        await until(lambda: me.mover.recovery_point == stamp + hour)
        await me.cut(talk, 2, 1, stamp=stamp + 10)
        assert me.mover.recovery_point == stamp + 10

    with_secondary(act)


def test_the_age_does_not_depend_on_the_clocks_of_two_sites() -> None:
    async def scenario(two: Two) -> None:
        two.a.site.clock.offset_ns = -(10**12)
        await two.make()
        await two.mirror()
        two.a.write("db", 1, "x")
        await two.b.wait()
        await asyncio.sleep(5)
        assert 0 <= two.b.status().recovery_point_age < 3

    play(scenario, made=False)


def test_what_is_missing_is_counted_from_the_cut_that_is_here() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 1, "x", count=50)
        await two.b.wait()
        two.a.interval = 1000
        two.fabric.stall("a", "b", one_way=True)
        mover = two.b.mirrors.mover(GROUP)
        await asyncio.sleep(0.1)
        assert mover.behind_bytes == 0
        two.fabric.heal_all()
        await asyncio.sleep(1)
        assert mover.behind_bytes == 0
        assert mover.last_heard >= two.b.group().cut_stamp

    play(scenario)


def test_a_broken_invariant_stops_the_mover_and_says_so() -> None:
    async def act(two: Two, me: Played) -> None:
        talk, _ = await me.greeted()
        await me.next(talk)
        me.mover._pool.state.groups[GROUP].remote_ids = None  # type: ignore[assignment]
        await talk.send(Begin(base=0, cut=1, volumes=VOLUMES))
        await me.suspended("internal error")
        await asyncio.sleep(20)
        assert me.talks.empty()

    with_secondary(act)


def test_a_refusal_is_told() -> None:
    async def scenario(two: Two) -> None:
        await two.mirror()
        two.a.pool.record(r.Fenced(group=GROUP, epoch=7))
        mover = two.b.mirrors.mover(GROUP)
        await until(lambda: mover.state is Pair.SUSPENDED and "epoch 7" in mover.cause)
        assert isinstance(mover, Mover)
        assert "refuses" in mover.cause
        assert PeerFault.exit_code == 8

    play(scenario, mirrored=False)


# -- what changes while an answer is awaited


def test_a_group_that_is_deleted_while_its_old_primary_is_told() -> None:
    async def act(two: Two, me: Played) -> None:
        talk, _ = await me.greeted()
        await me.next(talk)
        await me.cut(talk, 1, 0, 3)
        await two.b.call(failover.promote(two.b.pool, two.b.mirrors, GROUP, force=True))
        while True:
            talk = await me.talks.get()
            with suppress(Unavailable):  # the one that was followed
                await talk.expect(Fence)
                break
        groups.delete(two.b.pool, GROUP)
        await two.b.call(two.b.pool.flush())
        await talk.send(Fenced(epoch=2))
        await until(lambda: f"fence of {GROUP}" not in two.b.mirrors._tasks)
        assert not two.b.pool.failed
        await two.b.restart()
        assert GROUP not in two.b.pool.state.groups

    with_secondary(act)


def test_tracks_that_differ_are_told_until_all_of_them_have_come() -> None:
    """More are found while those that were told are on their way."""

    async def act(two: Two, me: Played) -> None:
        talk, _ = await me.greeted()
        await me.next(talk)
        await me.cut(talk, 1, 0, 3)
        me.mover.resend({70: BitMap([1])})
        talk, _ = await me.greeted(resume=True, cut=1)
        assert (await me.next(talk)).volume == 70
        assert isinstance(await me.next(talk), Pull)
        await talk.send(Begin(base=1, cut=2, volumes=VOLUMES))
        await until(lambda: two.b.group().incoming is not None)
        two.b.pool.on_change.append(
            lambda lsn, record: (
                me.mover.resend({71: BitMap([2])})
                if isinstance(record, r.IncomingCommitted)
                else None
            )
        )
        await talk.send(Cut(cut=2, stamp=2, blocks=0, token=0))
        talk, _ = await me.greeted(resume=True, cut=2)
        told = [await me.next(talk), await me.next(talk)]
        assert 71 in [message.volume for message in told if isinstance(message, Diverged)]

    with_secondary(act)
