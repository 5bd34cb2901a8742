"""What a secondary gets that pulls when things are not as they were."""

from __future__ import annotations

from typing import Any

from isochrone.mirror.conversation import Conversation
from isochrone.mirror.messages import Begin, Cut, Pull, Welcome
from isochrone.store import copies, revert
from isochrone.store import records as r
from isochrone.store.overwrite import Permission
from isochrone.types import BLOCK
from tests.mirror.sites import GROUP, Two
from tests.mirror.test_source import CREDIT, ME, Played, over, with_primary

OTHER = "dd" * 16


async def another(two: Two) -> Played:
    return Played(two, Conversation(await two.b.site.world.net.connect(two.a.address)))


def test_who_lost_what_it_had_said_it_had_gets_it_by_images() -> None:
    """The log is kept from the newest cut that it said it had, whatever marks there are."""

    async def act(two: Two, me: Played) -> None:
        other = await another(two)
        await other.hello(pool=OTHER)
        _, _, first = await other.group(0)
        other.talk.close()
        two.a.pool.record(
            r.SessionSuspended(group=GROUP, peer=OTHER, cause="away", stamp=1, kind="limit")
        )
        await me.hello()
        _, _, cut = await me.group(0)
        lost = cut.cut
        for n in range(3):
            two.a.write("db", 5, f"{n}")
            _, _, cut = await me.group(cut.cut)
        me.talk.close()
        again = await another(two)
        assert {mark.cut for mark in two.a.group().marks} >= {first.cut, lost}
        welcome = await again.hello(cut=lost)
        assert isinstance(welcome, Welcome)
        assert welcome.resume
        begin, items, cut = await again.group(lost)
        assert (begin.base, begin.images) == (lost, True)
        two.a.write("db", 6, "by the log again")
        begin, items, _ = await again.group(cut.cut)
        assert not begin.images
        assert [list(item.blocks) for item in items] == [[6]]
        again.talk.close()

    with_primary(act)


def test_a_log_that_is_given_up_while_it_is_sent_is_not_taken_for_whole() -> None:
    """What a volume was in the middle of it is gone at once, though the log itself may be there."""

    async def act(two: Two, me: Played) -> None:
        await me.hello()
        _, _, cut = await me.group(0)
        copy = copies.take(two.a.pool, ["db"], name="c1")
        _, _, cut = await me.group(cut.cut)
        two.a.write("db", 0, "by mistake")
        revert.revert(two.a.pool, copy.name, permission=Permission(mirror="none"))
        assert any(image.image for image in two.a.group().images)
        (session,) = two.a.mirrors._sessions
        send = session.talk.send

        async def give_up(message: Any) -> None:
            await send(message)
            if isinstance(message, Begin) and not message.images:
                two.a.pool.record(
                    r.SessionSuspended(group=GROUP, peer=ME, cause="x", stamp=1, kind="limit")
                )
                assert not two.a.group().images

        session.talk.send = give_up  # type: ignore[method-assign]
        await me.talk.send(Pull(cut=cut.cut, credit=CREDIT))
        begun = []
        while not isinstance(message := await me.next(), Cut):
            begun += [message.images] if isinstance(message, Begin) else []
        assert begun == [False, True]
        assert message.blocks * BLOCK > 0

    with_primary(act)


def test_a_secondary_that_comes_again_replaces_its_last_connection() -> None:
    async def act(two: Two, me: Played) -> None:
        await me.hello()
        _, _, cut = await me.group(0)
        await me.talk.send(Pull(cut=cut.cut, credit=CREDIT))
        again = await another(two)
        await again.hello(cut=cut.cut)
        await over(me)
        two.a.write("db", 1, "x")
        begin, _, _ = await again.group(cut.cut)
        assert not begin.images
        two.a.mirrors.suspend(GROUP)
        await over(again)

    with_primary(act)
