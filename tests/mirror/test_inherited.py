"""Requests over takeovers: each ends once, alike at both sites, and leaves no orphan."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import msgspec
import pytest

from isochrone.dr import failback, failover, switch
from isochrone.errors import Conflict, PeerFault
from isochrone.mirror import inherited, requests
from isochrone.mirror.conversation import Conversation
from isochrone.mirror.matched import FINAL, At
from isochrone.mirror.messages import (
    REQUEST_SITES_TOLD_MAX,
    REQUESTS_TOLD_MAX,
    CopyQuestion,
    Hello,
    Noted,
    Requests,
    ToldRequest,
    ToldSite,
    Welcome,
)
from isochrone.store import copies, holds
from isochrone.store import records as r
from isochrone.store.apply_matched import finished
from isochrone.store.catalogue import Group
from isochrone.store.check import check_pool
from isochrone.store.promises import CopyRequest, SiteState
from tests.mirror.sites import GROUP, Host, Two, sleep, until
from tests.mirror.sites import play_duplex as play


async def ask(two: Two, **options: Any) -> CopyRequest:
    """As the API does: durable before it is told."""
    made: CopyRequest = two.a.mirrors.asking.requests.request(GROUP, **options)
    await two.a.call(two.a.pool.flush())
    return made


def site_of(host: Host, id: str, n: int = 0) -> SiteState:
    found: SiteState = host.mirrors.asking.requests.find(id)[1].sites[n]
    return found


def state(host: Host, id: str, n: int = 0) -> str:
    return site_of(host, id, n).state


def settled(host: Host) -> bool:
    return all(finished(x) for x in host.group().requests)


async def promote(host: Host) -> None:
    await host.call(failover.promote(host.pool, host.mirrors, GROUP, force=True))


async def rejoin(host: Host, source: Host) -> None:
    await host.call(failback.rejoin(host.pool, host.mirrors, GROUP, source=source.address))
    await host.wait()


async def change_over(to: Host) -> None:
    """A planned switch, run at the site that takes over."""
    await to.call(
        switch.switch(to.pool, to.mirrors, GROUP, address=to.address, force=True, timeout=60)
    )


async def overtake(two: Two) -> None:
    """`b` takes over while `a` cannot be reached."""
    two.fabric.cut("a", "b")
    await promote(two.b)


async def come_back(two: Two) -> None:
    two.fabric.heal("a", "b")
    await until(lambda: two.a.group().role == "fenced")
    await rejoin(two.a, two.b)


# -- what is told


def test_a_site_that_has_it_on_record_is_armed() -> None:
    async def scenario(two: Two) -> None:
        request = await ask(two, name="golden", id="r1")
        await until(lambda: state(two.a, "r1") == "ARMED")
        assert "golden" not in two.b.pool.state.copies
        (told,) = two.b.group().told
        assert (told.id, told.name, told.stamp) == ("r1", "golden", request.taken)
        two.b.crash()
        await sleep(1.0)
        await two.b.start()  # the power is out after ARMED, and before the cut with the copy
        assert [x.id for x in two.b.group().told] == ["r1"]
        assert "golden" not in two.b.pool.state.copies
        await until(lambda: state(two.a, "r1") == "DONE")
        assert list(two.b.pool.state.copies) == ["golden"]
        assert two.a.image("db@golden") == two.b.image("db@golden")
        moved = [x.state for x in two.b.group().requests]
        assert moved == [], "a request is its primary's"

    play(scenario, interval=5.0)


def test_an_older_secondary_is_told_nothing() -> None:
    async def scenario(two: Two) -> None:
        (session,) = two.a.mirrors._live(GROUP).values()
        session.talk.capabilities -= {"requests"}
        await ask(two, id="r1")
        await until(lambda: state(two.a, "r1") == "DONE")
        assert two.b.group().told == []

    play(scenario)


def test_a_list_is_repeated_only_if_it_matters() -> None:
    async def scenario(two: Two) -> None:
        lists = []
        two.b.pool.on_change.append(
            lambda lsn, x: lists.append(x) if isinstance(x, r.RequestsTold) else None
        )
        await ask(two, id="r1")
        await until(lambda: state(two.a, "r1") == "DONE")
        await sleep(2.0)
        assert len(lists) == 2, "once when it was taken, once when it was done"
        await two.b.restart(power=False)
        await until(lambda: bool(two.a.mirrors._live(GROUP)))
        await sleep(2.0)
        assert len(lists) == 2

    play(scenario)


def test_what_no_sane_primary_tells() -> None:
    async def scenario(two: Two) -> None:
        request = ToldRequest("r", "c", 1, 1.0, False, (ToldSite("p", "LATER"),))
        with pytest.raises(PeerFault, match="twice"):
            inherited.note(two.b.pool, two.b.group(), Requests(token=1, requests=(request,) * 2))
        for bad in (
            msgspec.structs.replace(request, id="\x1b[2J"),
            msgspec.structs.replace(request, name="a/b"),
            msgspec.structs.replace(request, sites=(ToldSite("", "SENT"),)),
            msgspec.structs.replace(request, sites=(ToldSite("p", "SENT"),) * 2),
        ):
            with pytest.raises(PeerFault):
                inherited.note(two.b.pool, two.b.group(), Requests(token=1, requests=(bad,)))
        assert two.b.group().told == []
        answer = inherited.note(two.b.pool, two.b.group(), Requests(token=7, requests=(request,)))
        assert answer == Noted(token=7)
        assert two.b.group().told[0].sites == [("p", "SENT", False)], "not known, so not final"
        two.a.mirrors.asking.hear(GROUP, two.b.pool.identity, Noted(token=99))
        two.a.mirrors.asking.hear("nothing", "nobody", Noted(token=1))

    play(scenario)


def test_the_list_is_bounded_and_has_all_that_are_open() -> None:
    sites = [SiteState(f"p{n}") for n in range(REQUEST_SITES_TOLD_MAX + 1)]
    group = Group(name="g", role="primary")
    for n in range(200):
        done = [SiteState("p", "DONE")]
        group.requests.append(
            CopyRequest(id=f"r{n}", name="c", volumes=[], stamp=1, seconds=1.0, lsn=n + 1,
                        taken=1, sites=list(sites) if n < 10 else done)
        )  # fmt: skip
    group.requests.append(CopyRequest(id="new", volumes=[], stamp=1, seconds=1.0, sites=[]))
    told = inherited.list_of(group, lambda group, request: 1e9)
    assert len(told) == REQUESTS_TOLD_MAX
    assert [x.id for x in told[:10]] == [f"r{n}" for n in range(10)]
    assert told[-1].id == "r199"
    assert len(told[0].sites) == REQUEST_SITES_TOLD_MAX


# -- takeovers


def test_what_had_arrived_is_done_at_both() -> None:
    async def scenario(two: Two) -> None:
        two.fabric.stall("b", "a", one_way=True)  # no answer comes back
        request = await ask(two, name="golden", id="r1")
        await until(lambda: "golden" in two.b.pool.state.copies)
        await promote(two.b)
        assert state(two.b, "r1") == "DONE"
        again = two.b.mirrors.asking.requests.request(GROUP, id="r1")
        assert (again.taken, again.name) == (request.taken, "golden"), (
            "asked again, not taken again"
        )
        two.fabric.heal("b", "a", one_way=True)
        await until(lambda: two.a.group().role == "fenced")
        await until(lambda: state(two.a, "r1") == "OVERTAKEN")
        await rejoin(two.a, two.b)
        await until(lambda: settled(two.a))
        assert state(two.a, "r1") == "DONE"
        assert list(two.b.pool.state.copies) == ["golden"]

    play(scenario)


def test_what_had_not_arrived_is_expired_at_both_and_the_copy_stays_where_it_is() -> None:
    async def scenario(two: Two) -> None:
        await ask(two, name="golden", id="r1")
        await until(lambda: state(two.a, "r1") == "ARMED")
        await overtake(two)
        assert state(two.b, "r1") == "EXPIRED"
        await until(lambda: settled(two.b))
        await come_back(two)
        await until(lambda: settled(two.a))
        assert state(two.a, "r1") == "EXPIRED"
        assert "stays" in site_of(two.a, "r1").detail
        assert "golden" in two.a.pool.state.copies
        assert two.a.pool.state.copies["golden"].group == ""
        assert "golden" not in two.b.pool.state.copies

    play(scenario, interval=5.0)


def test_what_the_new_primary_never_heard_of_is_expired() -> None:
    async def scenario(two: Two) -> None:
        two.fabric.stall("a", "b", one_way=True)
        await ask(two, name="golden", id="r1", seconds=86400.0)
        await overtake(two)
        assert two.b.group().requests == []
        await come_back(two)
        await until(lambda: settled(two.a))
        assert state(two.a, "r1") == "EXPIRED"

    play(scenario)


@pytest.mark.parametrize("held", [False, True])
def test_the_new_primary_withdraws_what_came_late(held: bool) -> None:
    async def scenario(two: Two) -> None:
        two.fabric.cut("a", "b")
        await ask(two, name="golden", id="r1", seconds=5.0)
        await until(lambda: state(two.a, "r1") == "EXPIRED")

        def stop(lsn: int, record: r.AnyRecord) -> None:
            if isinstance(record, r.IncomingCommitted):
                asyncio.get_running_loop().call_soon(two.fabric.cut, "a", "b")

        two.b.pool.on_change.append(stop)
        two.fabric.heal("a", "b")
        await until(lambda: "golden" in two.b.pool.state.copies)
        assert two.b.group().told[0].sites == [(two.b.pool.identity, "EXPIRED", True)]
        if held:
            holds.pin(two.b.pool, two.b.pool.state.copies["golden"], "an auditor has it")
        await promote(two.b)
        await until(lambda: settled(two.b))
        assert ("golden" in two.b.pool.state.copies) == held
        site = site_of(two.b, "r1")
        assert (site.state, site.copy) == ("EXPIRED", "golden" if held else "")
        assert ("stays" if held else "deleted") in site.detail
        check_pool(two.b.pool)

    play(scenario)


def test_a_planned_switch_leaves_nothing_open() -> None:
    async def scenario(two: Two) -> None:
        await ask(two, name="golden", id="r1", seconds=86400.0)
        two.fabric.stall("b", "a", one_way=True)
        waits = [two.a.mirrors.asking.requests.request(GROUP, id="r2", wait_duplex=True)]
        two.fabric.heal("b", "a", one_way=True)
        await change_over(two.b)
        assert state(two.b, "r1") == "DONE"
        await two.a.wait()
        await until(lambda: settled(two.a))
        assert state(two.a, "r1") == "DONE"
        assert waits[0].sites[0].state in ("DONE", "EXPIRED")
        await change_over(two.a)  # and back: it is still known, and still done
        assert two.a.mirrors.asking.requests.request(GROUP, id="r1").sites[0].state == "DONE"
        assert settled(two.a)
        assert sorted(x.id for x in two.a.group().requests) == ["r1", "r2"]

    play(scenario, interval=5.0)


def test_while_it_is_handed_over_nothing_is_asked_for() -> None:
    async def scenario(two: Two) -> None:
        stamp = two.a.pool.world.clock.wall_ns()
        two.a.pool.record(r.HandoverBegun(group=GROUP, peer=two.b.pool.identity, stamp=stamp))
        with pytest.raises(Conflict, match="being handed over"):
            await ask(two)

    play(scenario)


def test_an_old_primary_that_gave_it_up_alone_learns_that_it_is_there() -> None:
    async def scenario(two: Two) -> None:
        two.fabric.stall("b", "a", one_way=True)
        await ask(two, name="golden", id="r1", seconds=20.0)
        await until(lambda: "golden" in two.b.pool.state.copies)
        await overtake(two)
        assert state(two.b, "r1") == "DONE"
        await until(lambda: state(two.a, "r1") == "EXPIRED")
        two.fabric.heal("b", "a", one_way=True)
        await come_back(two)
        await until(lambda: state(two.a, "r1") == "DONE")
        assert "golden" in two.b.pool.state.copies

    play(scenario)


def test_without_word_the_deadline_ends_it() -> None:
    async def scenario(two: Two) -> None:
        await ask(two, name="golden", id="r1", seconds=30.0)
        await overtake(two)
        two.a.pool.record(r.Fenced(group=GROUP, epoch=2, stamp=1))
        await until(lambda: state(two.a, "r1") == "OVERTAKEN")
        await until(lambda: state(two.a, "r1") == "EXPIRED", seconds=40.0)
        assert "has not said in time" in site_of(two.a, "r1").detail

    play(scenario, interval=5.0)


def test_a_third_site_is_settled_by_the_new_primary() -> None:
    """`c` has the copy or not, whatever the new primary has; nobody waits for it for ever."""

    async def scenario(two: Two) -> None:
        c = await two.third()
        asked = two.a.mirrors.asking.requests
        await until(lambda: all(asked.duplex(two.a.group(), x) for x in two.a.group().sessions))
        two.fabric.cut("a", "c")
        await ask(two, name="here", id="r1", seconds=86400.0)
        await until(lambda: "here" in two.b.pool.state.copies)
        two.fabric.cut("a", "b")
        two.fabric.heal("a", "c")
        await c.wait(copy="here")
        await promote(two.b)
        n = [x.peer for x in two.b.group().requests[0].sites].index(c.pool.identity)
        assert site_of(two.b, "r1", n).state == "SENT", "it may yet come"
        await sleep(400.0)
        await c.call(failback.rejoin(c.pool, c.mirrors, GROUP, source=two.b.address))
        await c.wait()
        await until(lambda: site_of(two.b, "r1", n).state == "DONE")
        assert settled(two.b)

    play(scenario)


def test_a_third_site_that_has_what_the_new_primary_has_not_lets_go_of_it() -> None:
    async def scenario(two: Two) -> None:
        c = await two.third()
        asked = two.a.mirrors.asking.requests
        await until(lambda: all(asked.duplex(two.a.group(), x) for x in two.a.group().sessions))
        two.fabric.stall("b", "a", one_way=True)  # its answers, so that no data goes to it
        two.a.pool.record(r.SessionFellBehind(group=GROUP, peer=two.b.pool.identity))
        two.fabric.cut("a", "b")
        two.fabric.heal("b", "a", one_way=True)
        with pytest.raises(Conflict, match="not DUPLEX"):
            await ask(two, name="far", id="r0")
        await ask(two, name="far", id="r1", at=[c.pool.identity])
        await c.wait(copy="far")
        request = asked.find("r1")[1]
        told = Requests(token=1, requests=(
            ToldRequest("r1", "far", request.taken, 60.0, False,
                        (ToldSite(c.pool.identity, "ARMED"),)),
        ))  # fmt: skip
        inherited.note(two.b.pool, two.b.group(), told)  # it was told, and got no data
        await promote(two.b)
        assert not settled(two.b), "it is to be deleted at the third site"
        await c.call(failback.rejoin(c.pool, c.mirrors, GROUP, source=two.b.address))
        await c.wait()
        await until(lambda: settled(two.b))
        assert "far" not in c.pool.state.copies
        assert state(two.b, "r1") == "EXPIRED"

    play(scenario)


def test_a_site_that_never_comes_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(requests, "SETTLED_S", 300.0)

    async def scenario(two: Two) -> None:
        told = Requests(token=1, requests=(
            ToldRequest("r1", "far", 5, 60.0, False, (ToldSite("cc" * 16, "ARMED"),)),
        ))  # fmt: skip
        two.fabric.cut("a", "b")
        inherited.note(two.b.pool, two.b.group(), told)
        await promote(two.b)
        await sleep(250.0)
        assert not settled(two.b)
        await sleep(60.0)
        assert settled(two.b)
        assert two.b.mirrors.asking.requests.look() == 0

    play(scenario)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_both_sites_agree_in_the_end(seed: int) -> None:
    """Requests, failing links and power, takeovers to and fro."""

    async def scenario(two: Two) -> None:
        dice = Random(seed)
        first, other = two.a, two.b
        for n in range(14):
            if first.group().writable:
                first.write("db", dice.randrange(20), f"db {n}")
            match dice.choice(["ask", "ask", "ask", "link", "crash", "switch", "fail over"]):
                case "ask":
                    try:
                        first.mirrors.asking.requests.request(
                            GROUP, id=f"r{n}", name=f"c{n}", seconds=dice.choice([3.0, 900.0])
                        )
                        await first.call(first.pool.flush())
                    except Conflict:
                        pass
                case "link":
                    two.fabric.cut("a", "b")
                    await sleep(dice.random() * 8)
                    two.fabric.heal("a", "b")
                case "crash":
                    await dice.choice([first, other]).restart(power=dice.random() < 0.5)
                case "switch":
                    await until(lambda: bool(first.mirrors._live(GROUP)))  # noqa: B023
                    await change_over(other)
                    first, other = other, first
                    await other.wait()
                case "fail over":
                    two.fabric.cut("a", "b")
                    await promote(other)
                    await sleep(dice.random() * 8)
                    two.fabric.heal("a", "b")
                    await until(lambda: first.group().role == "fenced")  # noqa: B023
                    first, other = other, first
                    await rejoin(other, first)
            await sleep(dice.random() * 3)
        await other.wait()
        await until(lambda: settled(two.a) and settled(two.b), seconds=1000.0)
        mine = {x.id: x for x in first.group().requests}
        theirs = {x.id: x for x in other.group().requests}
        for id in mine.keys() & theirs.keys():
            ends = {state(host, id) for host in (two.a, two.b)}
            assert len(ends) == 1, (id, ends)
            assert ends <= {x.value for x in FINAL}
        for id, request in (mine | theirs).items():
            both = [
                any((c.origin or c.name) == request.name and c.stamp == request.taken
                    for c in host.pool.state.copies.values())
                for host in (two.a, two.b)
            ]  # fmt: skip
            if request.sites[0].state == At.DONE:
                assert both == [True, True], (id, both)
        for host in (two.a, two.b):
            stamps = [(c.origin or c.name, c.stamp) for c in host.pool.state.copies.values()]
            assert len(stamps) == len(set(stamps)), "no copy is there twice"
            check_pool(host.pool)
        assert two.same("db", "wal")

    play(scenario)


def test_a_copy_of_another_instant_is_not_meant() -> None:
    async def scenario(two: Two) -> None:
        copies.take(two.a.pool, ["db"], name="golden")
        await two.b.wait()
        stamp = two.b.pool.state.copies["golden"].stamp
        find = inherited.find_copy
        assert find(two.b.pool, GROUP, "golden", stamp) is two.b.pool.state.copies["golden"]
        assert find(two.b.pool, GROUP, "golden", stamp + 1) is None
        assert find(two.b.pool, "other", "golden", stamp) is None
        assert CopyQuestion(request="", name="golden", stamp=stamp).withdraw is False

    play(scenario)


def test_old_requests_of_a_site_that_is_gone_do_not_stop_new_ones() -> None:
    async def scenario(two: Two) -> None:
        told = Requests(token=1, requests=tuple(
            ToldRequest(f"r{n}", f"far{n}", n + 1, 60.0, False, (ToldSite("cc" * 16, "ARMED"),))
            for n in range(requests.OPEN_REQUESTS_MAX)
        ))  # fmt: skip
        two.fabric.cut("a", "b")
        inherited.note(two.b.pool, two.b.group(), told)
        await promote(two.b)
        await come_back(two)
        await two.a.wait()
        assert not settled(two.b)
        asked = two.b.mirrors.asking.requests
        await until(lambda: asked.duplex(two.b.group(), two.a.pool.identity))
        asked.request(GROUP, id="new")
        await until(lambda: state(two.b, "new") == "DONE")

    play(scenario)


def test_a_secondary_that_calls_itself_oddly_is_not_told_of_to_others() -> None:
    """They would take its name for nonsense of the primary, and follow it no more."""

    async def scenario(two: Two) -> None:
        async def follow(identity: str) -> None:
            talk = Conversation(await two.b.site.world.net.connect(two.a.address))
            try:
                await talk.send(Hello(pool=identity, group=GROUP, lineage="", epoch=0, cut=0))
                await talk.expect(Welcome)
            finally:
                talk.close()

        for odd in ("", "not-an identity", "\x1b[2J"):
            with pytest.raises(PeerFault, match="identity"):
                await two.b.call(follow(odd))
        assert list(two.a.group().sessions) == [two.b.pool.identity]
        await two.b.call(follow("cc" * 16))

    play(scenario)
