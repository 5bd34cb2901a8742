"""The primary's end, seen by a secondary that is played by hand."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from isochrone.errors import IsochroneError, Unavailable
from isochrone.mirror import cuts
from isochrone.mirror.conversation import Conversation
from isochrone.mirror.messages import (
    TEXT_CHARS_MAX,
    Begin,
    Command,
    Credit,
    Cut,
    Data,
    Fence,
    Fenced,
    Heartbeat,
    Hello,
    Holes,
    Inventory,
    Leave,
    Pull,
    Reached,
    Refuse,
    Requests,
    Sync,
    Welcome,
)
from isochrone.store import copies
from isochrone.store import records as r
from isochrone.store.catalogue import MARKS_MAX
from isochrone.types import BLOCK, MIB
from tests.mirror.sites import GROUP, Two, play, until

ME = "ee" * 16
CREDIT = 16 * MIB


class Played:
    """A secondary that says what a test wants."""

    def __init__(self, two: Two, talk: Conversation) -> None:
        self.two, self.talk = two, talk

    async def hello(self, **changed: Any) -> Welcome | Refuse:
        lineage = self.two.a.group().lineage
        fields = {"pool": ME, "group": GROUP, "lineage": lineage, "epoch": 1, "cut": 0}
        await self.talk.send(Hello(**{**fields, **changed}))
        answer = await self.talk.receive()
        assert isinstance(answer, Welcome | Refuse)
        return answer

    async def next(self) -> Any:
        """The next message that is a part of a group, or begins or ends one."""
        passed = (Heartbeat, Reached, Inventory, Requests)
        while isinstance(message := await self.talk.receive(), passed):
            pass
        return message

    async def group(self, cut: int, credit: int = CREDIT) -> tuple[Begin, list[Any], Cut]:
        """Pull one consistency group."""
        await self.talk.send(Pull(cut=cut, credit=credit))
        begin = await self.next()
        assert isinstance(begin, Begin)
        items: list[Any] = []
        while not isinstance(message := await self.next(), Cut):
            items.append(message)
            if isinstance(message, Data):
                await self.talk.send(Credit(bytes=len(message.payload)))
        return begin, items, message


def with_primary(act: Callable[[Two, Played], Awaitable[None]], **how: Any) -> None:
    async def scenario(two: Two) -> None:
        talk = Conversation(await two.b.site.world.net.connect(two.a.address))
        await act(two, Played(two, talk))
        talk.close()
        await until(lambda: not two.a.mirrors._sessions)

    play(scenario, mirrored=False, **how)


async def over(me: Played) -> None:
    """The primary hangs up; what was on its way comes first."""

    async def drain() -> None:
        while True:
            await me.talk.receive()

    with pytest.raises(Unavailable, match="closed the connection"):
        await drain()


# -- the greeting


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        ({"group": "nobody"}, "NotFound", "no group 'nobody'"),
        ({"lineage": "ff" * 16}, "Conflict", "another history"),
        ({"cut": 1}, "Conflict", "this primary has lost history"),
        ({"pool": "SELF"}, "Conflict", "cannot mirror itself"),
        ({"group": "\0" * 256}, "NotFound", "no group"),
    ],
)
def test_a_greeting_that_is_refused(changed: dict[str, Any], code: str, words: str) -> None:
    async def act(two: Two, me: Played) -> None:
        changed_ = {k: two.a.pool.identity if v == "SELF" else v for k, v in changed.items()}
        lsn = two.a.pool.log.lsn
        answer = await me.hello(**changed_)
        assert isinstance(answer, Refuse)
        assert answer.code == code
        assert words in answer.message
        assert len(answer.message) <= TEXT_CHARS_MAX
        me.talk.close()
        assert two.a.pool.log.lsn == lsn
        assert two.a.group().sessions == {}

    with_primary(act)


@pytest.mark.parametrize("first", [Sync(token=1), Pull(cut=0, credit=1), Leave()])
def test_nothing_comes_before_the_greeting(first: Any) -> None:
    async def act(two: Two, me: Played) -> None:
        await me.talk.send(first)
        answer = await me.talk.receive()
        assert isinstance(answer, Refuse)
        assert "began with" in answer.message

    with_primary(act)


def test_one_who_says_nothing_is_let_go() -> None:
    async def act(two: Two, me: Played) -> None:
        await until(lambda: len(two.a.mirrors._sessions) == 1)
        await until(lambda: not two.a.mirrors._sessions, 12)

    with_primary(act)


def test_a_probe_changes_nothing() -> None:
    async def act(two: Two, me: Played) -> None:
        lsn = two.a.pool.log.lsn
        answer = await me.hello(purpose="probe", lineage="", epoch=0)
        assert isinstance(answer, Welcome)
        assert [(v.name, v.size) for v in answer.volumes] == [("db", 4 * MIB), ("wal", 4 * MIB)]
        assert not answer.resume
        me.talk.close()
        await asyncio.sleep(1)
        assert two.a.pool.log.lsn == lsn

    with_primary(act)


# -- groups


def test_a_first_copy_and_what_follows() -> None:
    async def act(two: Two, me: Played) -> None:
        assert isinstance(await me.hello(), Welcome)
        begin, items, cut = await me.group(0)
        assert (begin.base, begin.cut, cut.cut, cut.blocks) == (0, 1, 1, 1)
        assert [list(item.blocks) for item in items] == [[0]]
        two.a.write("wal", 3, "x", count=2)
        two.a.discard("db", 0, 1)
        copies.take(two.a.pool, ["db"], name="c1")
        two.a.write("db", 0, "y")
        begin, items, cut = await me.group(1)
        assert (begin.base, begin.cut, cut.blocks) == (1, 2, 3)
        kinds = [type(item) for item in items]
        assert kinds == [Holes, Data, Command, Data]
        assert isinstance(r.decode(items[2].body), r.CopyTaken)
        assert two.a.group().sessions[ME].cut == 1
        assert two.a.mirrors.status(GROUP).peers[0].acked_cut == 1

    with_primary(act)


def test_a_cut_is_durable_before_it_is_announced() -> None:
    async def act(two: Two, me: Played) -> None:
        await me.hello()
        await me.talk.send(Pull(cut=0, credit=CREDIT))
        begin = await me.next()
        assert isinstance(begin, Begin)
        assert two.a.group().mark(begin.cut).lsn <= two.a.pool.log.durable

    with_primary(act)


def test_it_stops_when_the_credit_is_used_up() -> None:
    async def act(two: Two, me: Played) -> None:
        await me.hello()
        for n in range(8):
            two.a.write("db", 128 * n, f"{n}", count=128)
        await me.talk.send(Pull(cut=0, credit=MIB))
        got = 0
        assert isinstance(await me.next(), Begin)
        for _ in range(8):  # heartbeats go on; data does not
            message = await me.talk.receive()
            got += len(message.payload) if isinstance(message, Data) else 0
            assert not isinstance(message, Cut)
        assert MIB <= got < 3 * MIB
        while not isinstance(message := await me.talk.receive(), Cut):
            if isinstance(message, Data):
                got += len(message.payload)
            await me.talk.send(Credit(bytes=MIB))
        assert got == 4 * MIB

    with_primary(act)


def test_an_idle_group_gets_heartbeats_and_no_cuts() -> None:
    async def act(two: Two, me: Played) -> None:
        await me.hello()
        _, _, cut = await me.group(0)
        await me.talk.send(Pull(cut=1, credit=CREDIT))
        lsn = two.a.pool.log.lsn
        stamps = []
        for _ in range(50):
            beat = await me.talk.receive()
            assert isinstance(beat, Heartbeat)
            if beat.clean:
                assert (beat.clean, beat.behind_bytes) == (1, 0)
                stamps.append(beat.stamp)
        assert stamps == sorted(stamps)
        assert stamps[-1] - cut.stamp > 2e9
        assert two.a.pool.log.lsn == lsn

    with_primary(act)


def test_a_heartbeat_says_how_much_is_missing() -> None:
    async def act(two: Two, me: Played) -> None:
        await me.hello()
        await me.group(0)
        two.a.write("db", 5, "x", count=7)
        await me.talk.send(Pull(cut=1, credit=CREDIT))
        while isinstance(beat := await me.talk.receive(), Heartbeat) and not beat.behind_bytes:
            pass
        assert isinstance(beat, Heartbeat)
        assert beat.behind_bytes == 7 * BLOCK
        assert not beat.clean

    with_primary(act, interval=30.0)


def test_a_sync_does_not_wait_for_the_interval() -> None:
    async def act(two: Two, me: Played) -> None:
        loop = asyncio.get_running_loop()
        await me.hello()
        _, _, cut = await me.group(0)
        assert cut.token == 0
        two.a.write("db", 5, "x")
        began = loop.time()
        await me.talk.send(Sync(token=8))
        _, _, cut = await me.group(1)
        assert cut.token == 8
        assert loop.time() - began < 1
        await me.talk.send(Pull(cut=2, credit=CREDIT))
        await me.talk.send(Sync(token=9))  # nothing has changed: a heartbeat answers
        while not (isinstance(beat := await me.talk.receive(), Heartbeat) and beat.clean == 2):
            pass
        while not (isinstance(beat := await me.talk.receive(), Heartbeat) and beat.token == 9):
            pass
        assert loop.time() - began < 3

    with_primary(act, interval=30.0)


def test_cuts_keep_their_distance() -> None:
    async def act(two: Two, me: Played) -> None:
        loop = asyncio.get_running_loop()
        await me.hello()
        await me.group(0)
        times = []
        for cut in range(1, 6):
            two.a.write("db", 5, f"{cut}")
            await me.group(cut)
            times.append(loop.time())
        gaps = [b - a for a, b in itertools.pairwise(times)]
        assert all(1.9 < gap < 2.3 for gap in gaps)

    with_primary(act, interval=2.0)


def test_a_secondary_that_comes_back_goes_on_from_its_cut() -> None:
    async def act(two: Two, me: Played) -> None:
        await me.hello()
        await me.group(0)
        me.talk.close()
        two.a.write("db", 9, "x")
        await two.a.call(two.a.pool.flush())
        await two.a.restart()
        again = Played(two, Conversation(await two.b.site.world.net.connect(two.a.address)))
        answer = await again.hello(cut=1)
        assert isinstance(answer, Welcome)
        assert answer.resume
        begin, items, _ = await again.group(1)
        assert begin.base == 1
        assert [list(item.blocks) for item in items] == [[9]]
        again.talk.close()

    with_primary(act)


def test_a_deletion_before_a_restart_is_not_forgotten() -> None:
    """Nothing but the log remembers it, and a checkpoint may have passed the place."""

    async def act(two: Two, me: Played) -> None:
        await me.hello()
        stamp = copies.take(two.a.pool, ["db"], name="c1").stamp
        await me.group(0)
        me.talk.close()
        copies.delete(two.a.pool, "c1")
        await two.a.stop()
        await two.a.start()
        again = Played(two, Conversation(await two.b.site.world.net.connect(two.a.address)))
        await again.hello(cut=1)
        _, items, _ = await again.group(1)
        assert [r.decode(item.body) for item in items] == [r.CopyDeleted(name="c1", stamp=stamp)]
        again.talk.close()

    with_primary(act)


def test_what_a_copy_is_travels_after_it() -> None:
    async def act(two: Two, me: Played) -> None:
        await me.hello()
        await me.group(0)
        copies.take(two.a.pool, ["db"], name="c1")
        await me.group(1)
        copies.classify(two.a.pool, "c1", "filesystem")
        _, items, _ = await me.group(2)
        said = r.CopyClassified(name="c1", consistency="filesystem")
        assert [r.decode(item.body) for item in items] == [said]

    with_primary(act)


def test_a_slow_first_copy_is_not_outrun_by_the_cuts_of_another_secondary() -> None:
    """The primary remembers a bounded number of cuts, and yet the one it has just sent."""

    async def act(two: Two, me: Played) -> None:
        await me.hello()
        for n in range(8):
            two.a.write("db", 128 * n, f"{n}", count=128)
        await me.talk.send(Pull(cut=0, credit=BLOCK))
        begin = await me.next()
        for n in range(2 * MARKS_MAX):
            two.a.write("wal", 0, f"{n}")
            cuts.place(two.a.pool, two.a.group(), {"another": n})
        await me.talk.send(Credit(bytes=CREDIT))
        while not isinstance(message := await me.next(), Cut):
            pass
        assert message.cut == begin.cut
        begin, items, _ = await me.group(message.cut)
        assert begin.base == message.cut
        assert [list(item.blocks) for item in items] == [[0]]

    with_primary(act)


# -- what it does not take


@pytest.mark.parametrize(
    "message",
    [
        Pull(cut=2, credit=1),  # a cut that does not exist
        Pull(cut=1 << 62, credit=1),
        Begin(base=0, cut=1, volumes=()),
        Cut(cut=1, stamp=1, blocks=0, token=0),
        Hello(pool=ME, group=GROUP, lineage="", epoch=0, cut=0),
        Fence(group=GROUP, lineage="", epoch=9),
        Refuse(code="x", message="y"),
    ],
    ids=lambda m: f"{type(m).__name__}-{getattr(m, 'cut', '')}",
)
def test_nonsense_ends_the_connection_and_nothing_else(message: Any) -> None:
    async def act(two: Two, me: Played) -> None:
        await me.hello()
        await me.group(0)
        await me.talk.send(message)
        await over(me)
        assert two.a.group().role == "primary"
        again = Played(two, Conversation(await two.b.site.world.net.connect(two.a.address)))
        answer = await again.hello(cut=1)
        assert isinstance(answer, Welcome)
        assert answer.resume
        again.talk.close()

    with_primary(act)


def test_a_second_pull_before_the_answer() -> None:
    async def act(two: Two, me: Played) -> None:
        await me.hello()
        await me.talk.send(Pull(cut=0, credit=0))
        await me.talk.send(Pull(cut=0, credit=0))
        await over(me)

    with_primary(act)


# -- the end


def test_who_leaves_is_forgotten() -> None:
    async def act(two: Two, me: Played) -> None:
        await me.hello()
        assert ME in two.a.group().sessions
        await me.talk.send(Leave())
        await over(me)
        assert two.a.group().sessions == {}
        assert two.a.mirrors.status(GROUP).peers == []

    with_primary(act)


def test_a_fence_ends_the_epoch_here() -> None:
    async def act(two: Two, me: Played) -> None:
        lineage = two.a.group().lineage
        for epoch, stays in ((0, True), (1, True), (2, False)):
            talk = Conversation(await two.b.site.world.net.connect(two.a.address))
            await talk.send(Fence(group=GROUP, lineage=lineage, epoch=epoch))
            assert await talk.receive() == Fenced(epoch=epoch)
            talk.close()
            assert two.a.group().writable is stays
        assert two.a.group().superseded_by == 2
        assert two.a.pool.log.durable == two.a.pool.log.lsn
        answer = await me.hello()
        assert isinstance(answer, Refuse)
        assert answer.code == "StaleEpoch"

    with_primary(act)


def test_a_fence_for_another_history_or_group_changes_nothing() -> None:
    async def act(two: Two, me: Played) -> None:
        lineage = two.a.group().lineage
        for group, id in ((GROUP, "ff" * 16), ("nobody", lineage)):
            talk = Conversation(await two.b.site.world.net.connect(two.a.address))
            await talk.send(Fence(group=group, lineage=id, epoch=9))
            assert await talk.receive() == Fenced(epoch=9)
            talk.close()
        assert two.a.group().writable

    with_primary(act)


def test_a_session_ends_when_its_epoch_does() -> None:
    async def act(two: Two, me: Played) -> None:
        await me.hello()
        await me.group(0)
        await me.talk.send(Pull(cut=1, credit=CREDIT))
        two.a.pool.record(r.Fenced(group=GROUP, epoch=2))
        await over(me)

    with_primary(act)


def test_a_pool_that_cannot_sync_sends_nothing_of_it() -> None:
    async def act(two: Two, me: Played) -> None:
        await me.hello()
        await me.group(0)
        two.a.write("db", 1, "x")
        two.a.site.platter.faults.sync_error = 1.0
        await me.talk.send(Pull(cut=1, credit=CREDIT))
        with pytest.raises(IsochroneError):
            await me.next()

    with_primary(act)
