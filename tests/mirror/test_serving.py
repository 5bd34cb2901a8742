"""What a secondary gets that pulls when things are not as they were."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from structlog.testing import capture_logs

from isochrone.mirror import cuts, serving, shipment
from isochrone.mirror.conversation import Conversation
from isochrone.mirror.messages import Begin, Cut, Data, Pull, Welcome
from isochrone.sim.disk import SimFile
from isochrone.store import copies, revert
from isochrone.store import records as r
from isochrone.store.catalogue import MARKS_MAX
from isochrone.store.format import segment_name
from isochrone.store.overwrite import Permission
from isochrone.types import BLOCK
from tests.mirror.sites import GROUP, Two, play, sleep
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


def test_copies_that_a_resend_leaves_out_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when that resend is over, at the side that knows."""
    for module in (serving, shipment):
        monkeypatch.setattr(module, "COPIES_MAX", 3)

    async def scenario(two: Two) -> None:
        assert two.a.status().peers[0].copies_left_out == 0
        two.a.mirrors.suspend(GROUP)
        for n in range(5):
            two.a.write("db", 5, f"{n}")
            copies.take(two.a.pool, ["db"], name=f"c{n}")
        with capture_logs() as lines:
            two.a.mirrors.resume(GROUP)
            await two.b.wait()
        (line,) = [x for x in lines if "leaves the oldest copies out" in x["event"]]
        assert (line["copies"], line["sent"]) == (2, 3)
        assert sorted(two.b.pool.state.copies) == ["c2", "c3", "c4"]
        assert two.a.status().peers[0].copies_left_out == 2
        two.fabric.cut("a", "b")
        await sleep(30)
        two.fabric.heal_all()
        await two.b.wait()
        assert two.a.status().peers[0].copies_left_out == 2

    play(scenario)


def test_a_mark_that_goes_with_the_cut_it_is_needed_for() -> None:
    """As many others as may follow need all the marks there may be: then everything is sent."""

    async def act(two: Two, me: Played) -> None:
        two.a.write("db", 5, "first")
        await me.hello()
        _, _, first = await me.group(0)
        for n in range(MARKS_MAX - 1):
            peer = f"{n:032x}"
            two.a.pool.record(r.SessionOpened(group=GROUP, peer=peer))
            cuts.place(two.a.pool, two.a.group(), {ME: first.cut}, whole=peer)
        two.a.pool.record(r.SessionFellBehind(group=GROUP, peer=ME))
        two.a.write("db", 9, "second")
        assert two.a.group().mark(first.cut) is not None
        begin, items, _ = await me.group(first.cut)
        assert two.a.group().mark(first.cut) is None
        assert (begin.base, begin.images) == (0, True)
        sent = {(x.volume, block) for x in items if isinstance(x, Data) for block in x.blocks}
        id = two.a.pool.state.names["db"]
        assert sent == {(id, 0), (id, 5), (id, 9)}

    with_primary(act)


@pytest.mark.parametrize("fault", ["rot", "error"])
def test_a_log_that_cannot_be_read_is_gone_round_by_images(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What describes a batch is damaged at the primary; its tables still know all it did."""

    async def scenario(two: Two) -> None:
        two.fabric.cut("a", "b")
        pool = two.a.pool
        two.a.write("db", 5, "before")
        segment, slot = pool.log.position
        two.a.write("db", 6, "this batch")
        copies.take(pool, ["db", "wal"], name="c")
        two.a.write("db", 7, "after")
        await two.a.call(pool.flush())
        name = segment_name(segment)
        if fault == "rot":
            two.a.site.platter.flip(name, slot * BLOCK + 40, 3)
        else:
            read_at = SimFile.read_at

            def fail(file: SimFile, length: int, offset: int) -> bytes:
                if (file._name, offset) == (name, slot * BLOCK):
                    raise OSError(errno.EIO, "a bad sector")
                return read_at(file, length, offset)

            monkeypatch.setattr(SimFile, "read_at", fail)
        two.fabric.heal("a", "b")
        await two.b.wait()
        assert two.same("db", "wal", "db@c", "wal@c")
        two.a.write("db", 8, "and on")
        await two.b.wait()
        assert two.same("db", "wal")
        assert {s.cause for s in two.b.status().suspensions} == {"link"}, "it was cut before"

    play(scenario)
