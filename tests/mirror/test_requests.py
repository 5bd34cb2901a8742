"""Copies at both sites: the same instant, exactly one, and honest about what did not become."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from random import Random
from typing import Any

import pytest

from isochrone.errors import Conflict, DeadlinePassed, InvalidInput
from isochrone.mirror import groups
from isochrone.mirror.messages import CopyAnswer, CopyQuestion
from isochrone.mirror.reservations import Replies
from isochrone.store import copies, volumes
from isochrone.store import records as r
from isochrone.store.check import check_pool
from isochrone.store.promises import CopyRequest
from isochrone.types import MIB
from tests.mirror.sites import GROUP, Two, sleep, until
from tests.mirror.sites import play_duplex as play


def ask(two: Two, **options: Any) -> CopyRequest:
    request: CopyRequest = two.a.mirrors.asking.requests.request(GROUP, **options)
    return request


async def done(two: Two, id: str, seconds: float = 60.0) -> CopyRequest:
    found: CopyRequest = await two.a.call(two.a.mirrors.asking.requests.wait(id, seconds))
    return found


def state(two: Two, id: str) -> str:
    found: str = two.a.mirrors.asking.requests.find(id)[1].sites[0].state
    return found


def equal(two: Two, copy: str) -> bool:
    return all(two.a.image(f"{name}@{copy}") == two.b.image(f"{name}@{copy}")
               for name in ("db", "wal"))  # fmt: skip


def test_the_same_instant_while_the_mirror_lags() -> None:
    async def scenario(two: Two) -> None:
        for n in range(20):
            two.a.write("db", n, f"before {n}")
        request = ask(two, name="golden")
        for n in range(20):
            two.a.write("db", n, f"after {n}")
            two.a.write("wal", n, f"after {n}")
        assert state(two, request.id) == "LOCAL_DONE"
        found = await done(two, request.id)
        assert found.sites[0].copy == "golden"
        assert found.taken == two.b.pool.state.copies["golden"].stamp
        assert equal(two, "golden")
        assert two.b.says("db@golden", 7) == "before 7"
        assert two.b.says("wal@golden", 7) == ""
        assert two.b.status().state == "DUPLEX"
        await two.b.wait()
        assert two.same("db", "wal")

    play(scenario, interval=8.0)


def test_idle_volumes_do_not_hold_it_up() -> None:
    async def scenario(two: Two) -> None:
        await sleep(30.0)
        await done(two, ask(two).id, seconds=2.5)

    play(scenario, interval=1.0)


def test_three_at_once_are_done_in_order() -> None:
    async def scenario(two: Two) -> None:
        ids = []
        for n in range(3):
            two.a.write("db", 5, f"content {n}")
            ids.append(ask(two, name=f"c{n}").id)
        moved: list[str] = []
        two.a.pool.on_change.append(
            lambda lsn, x: moved.append(x.request)
            if isinstance(x, r.RequestMoved) and x.state == "DONE" else None
        )  # fmt: skip
        requests = [await done(two, id) for id in ids]
        assert moved == ids
        assert len({x.lsn for x in requests}) == 3
        assert [two.b.says(f"db@c{n}", 5) for n in range(3)] == [f"content {n}" for n in range(3)]
        assert all(equal(two, f"c{n}") for n in range(3))

    play(scenario)


def test_a_retry_gives_the_same_copy() -> None:
    async def scenario(two: Two) -> None:
        first = ask(two, id="nightly")
        assert ask(two, id="nightly").name == first.name
        await done(two, "nightly")
        await two.a.call(two.a.pool.flush())
        await two.a.restart()
        again = ask(two, id="nightly")
        assert (again.name, again.lsn) == (first.name, first.lsn)
        assert len(two.a.pool.state.copies) == len(two.b.pool.state.copies) == 1

    play(scenario)


@pytest.mark.parametrize("power", [True, False])
@pytest.mark.parametrize("when", [r.IncomingBegun, r.CopyTaken, r.IncomingCommitted])
def test_the_secondary_dies_around_the_copy(when: type[r.Record], power: bool) -> None:
    async def scenario(two: Two) -> None:
        crashed = []

        def die(lsn: int, record: r.AnyRecord) -> None:
            if isinstance(record, when) and not crashed:
                crashed.append(lsn)
                asyncio.get_running_loop().call_soon(two.b.crash)

        two.a.write("db", 1, "before")
        two.b.pool.on_change.append(die)
        request = ask(two, name="golden")
        two.a.write("db", 1, "after")
        await until(lambda: bool(crashed))
        await sleep(0.1)
        await two.b.restart(power=power)
        await done(two, request.id)
        assert two.b.says("db@golden", 1) == "before"
        assert equal(two, "golden")
        assert list(two.b.pool.state.copies) == ["golden"]
        check_pool(two.b.pool)

    play(scenario)


@pytest.mark.parametrize("power", [True, False])
def test_the_primary_dies_before_it_hears_of_it(power: bool) -> None:
    async def scenario(two: Two) -> None:
        two.fabric.stall("b", "a", one_way=True)  # no answer comes back
        request = ask(two, name="golden")
        await two.a.call(two.a.pool.flush())
        await until(lambda: "golden" in two.b.pool.state.copies)
        two.a.crash(power=power)
        two.fabric.heal("b", "a", one_way=True)
        await two.a.start()
        assert state(two, request.id) != "DONE"
        found = await done(two, request.id)
        assert found.lsn == request.lsn
        assert list(two.b.pool.state.copies) == ["golden"]

    play(scenario)


def test_a_cut_link_only_delays_it() -> None:
    async def scenario(two: Two) -> None:
        request = ask(two, name="golden", seconds=900.0)
        two.fabric.cut("a", "b")
        await two.a.call(two.a.pool.flush())
        for n in range(5):
            two.a.write("db", 0, f"later {n}")
            await sleep(60.0)
        assert state(two, request.id) in ("LOCAL_DONE", "SENT")
        two.fabric.heal("a", "b")
        await done(two, request.id)
        assert two.b.says("db@golden", 0) == "first"
        assert equal(two, "golden")

    play(scenario)


def drop_side_file(two: Two) -> None:
    peer = two.b.pool.identity
    two.a.pool.record(r.SessionFellBehind(group=GROUP, peer=peer))


def test_a_dropped_side_file_ends_it() -> None:
    async def scenario(two: Two) -> None:
        two.fabric.cut("a", "b")
        request = ask(two, name="golden")
        drop_side_file(two)
        with pytest.raises(DeadlinePassed, match="side file with the copy in it was dropped"):
            await done(two, request.id)
        assert state(two, request.id) == "EXPIRED"
        assert "golden" in two.a.pool.state.copies, "the copy here stays"
        two.fabric.heal("a", "b")
        await two.b.wait()
        await until(lambda: two.a.mirrors.asking.requests.look() == 0)
        assert "golden" not in two.b.pool.state.copies, "what came late was withdrawn"
        two.a.write("db", 3, "more")
        await two.b.wait()
        assert two.same("db", "wal")

    play(scenario)


@pytest.mark.parametrize("keep_late", [True, False])
def test_what_comes_after_the_deadline_goes_again(keep_late: bool) -> None:
    async def scenario(two: Two) -> None:
        two.fabric.cut("a", "b")
        request = ask(two, name="golden", seconds=30.0, keep_late=keep_late)
        await two.a.call(two.a.pool.flush())
        with pytest.raises(DeadlinePassed, match="EXPIRED"):
            await done(two, request.id)
        two.fabric.heal("a", "b")
        await two.b.wait(copy="golden")
        await until(lambda: two.a.mirrors.asking.requests.look() == 0)
        assert ("golden" in two.b.pool.state.copies) == keep_late
        site = two.a.mirrors.asking.requests.find(request.id)[1].sites[0]
        assert site.state == "EXPIRED"
        assert keep_late or "deleted there" in site.detail

    play(scenario)


def test_a_deadline_survives_a_restart() -> None:
    async def scenario(two: Two) -> None:
        two.fabric.cut("a", "b")
        request = ask(two, seconds=40.0)
        await two.a.call(two.a.pool.flush())
        await sleep(30.0)
        await two.a.restart()
        await sleep(5.0)
        assert state(two, request.id) in ("LOCAL_DONE", "SENT")
        await until(lambda: state(two, request.id) == "EXPIRED", seconds=8.0)

    play(scenario)


def test_a_mirror_that_is_not_duplex_refuses_or_waits() -> None:
    async def scenario(two: Two) -> None:
        peer = two.b.pool.identity
        two.fabric.cut("a", "b")
        await until(lambda: not two.a.mirrors._live(GROUP))
        with pytest.raises(Conflict, match="not DUPLEX"):
            ask(two)
        assert two.a.group().requests == []
        request = ask(two, name="golden", wait_duplex=True)
        two.a.write("db", 0, "when it is duplex again")
        assert state(two, request.id) == "NEW"
        assert two.a.pool.state.copies == {}
        drop_side_file(two)
        two.fabric.heal("a", "b")
        found = await done(two, request.id)
        assert two.a.mirrors.asking.requests.duplex(two.a.group(), peer)
        assert found.lsn > 0
        assert two.b.says("db@golden", 0) == "when it is duplex again"
        assert equal(two, "golden")

    play(scenario)


def test_what_waits_for_duplex_keeps_its_turn() -> None:
    async def scenario(two: Two) -> None:
        two.fabric.cut("a", "b")
        await until(lambda: not two.a.mirrors._live(GROUP))
        ids = [ask(two, name=f"c{n}", wait_duplex=True).id for n in range(3)]
        two.fabric.heal("a", "b")
        found = [await done(two, id) for id in ids]
        assert [x.lsn for x in found] == sorted(x.lsn for x in found)

    play(scenario)


def test_a_copy_that_was_deleted_is_missed() -> None:
    async def scenario(two: Two) -> None:
        request = ask(two, name="golden")
        copies.delete(two.a.pool, "golden")
        with pytest.raises(Conflict, match="MISSED"):
            await done(two, request.id)

    play(scenario)


def test_a_site_that_leaves_ends_it() -> None:
    async def scenario(two: Two) -> None:
        two.fabric.cut("a", "b")
        request = ask(two)
        two.a.pool.record(r.SessionClosed(group=GROUP, peer=two.b.pool.identity))
        with pytest.raises(DeadlinePassed, match="does not follow"):
            await done(two, request.id)
        assert two.a.mirrors.asking.requests.look() == 0

    play(scenario)


def test_a_name_that_is_taken_is_refused() -> None:
    async def scenario(two: Two) -> None:
        copies.take(two.a.pool, ["db"], name="golden")
        with pytest.raises(Conflict, match="already"):
            ask(two, name="golden")
        volumes.create(two.a.pool, "other", MIB)
        with pytest.raises(InvalidInput, match="of the group"):
            ask(two, volumes=["other"])
        with pytest.raises(InvalidInput, match="deadline"):
            ask(two, seconds=0.0)
        with pytest.raises(Conflict, match="primary"):
            two.b.mirrors.asking.requests.request(GROUP)
        assert two.a.group().requests == []

    play(scenario)


def test_a_site_of_an_older_version_is_refused() -> None:
    async def scenario(two: Two) -> None:
        (session,) = two.a.mirrors._live(GROUP).values()
        session.talk.capabilities = frozenset()
        with pytest.raises(Conflict, match="version"):
            ask(two)
        assert two.a.group().requests == []
        assert two.a.pool.state.copies == {}

    play(scenario)


def test_a_failed_pool_is_looked_after_later() -> None:
    async def scenario(two: Two) -> None:
        two.fabric.cut("a", "b")
        request = ask(two, seconds=10.0)
        two.a.pool.failed = "for a while"
        await sleep(20.0)
        two.a.pool.failed = ""
        await until(lambda: state(two, request.id) == "EXPIRED")

    play(scenario)


def test_some_volumes_of_the_group() -> None:
    async def scenario(two: Two) -> None:
        await done(two, ask(two, volumes=["wal"], name="part", writable=True).id)
        assert [two.b.pool.state.volumes[m].kind for _, m in
                two.b.pool.state.copies["part"].members] == ["clone"]  # fmt: skip

    play(scenario)


def test_a_name_of_a_request_is_of_one_group() -> None:
    async def scenario(two: Two) -> None:
        volumes.create(two.a.pool, "other", MIB)
        groups.create(two.a.pool, "h", ["other"])
        await two.b.call(two.b.mirrors.add("h", two.a.address))
        await two.b.wait("h")
        first = ask(two, id="nightly")
        with pytest.raises(Conflict, match=f"'nightly' is of group {GROUP!r}"):
            two.a.mirrors.asking.requests.request("h", id="nightly", wait_duplex=True)
        assert two.a.group("h").requests == []
        await done(two, first.id)

    play(scenario)


def test_an_answer_nobody_asked_for_changes_nothing() -> None:
    async def scenario(two: Two) -> None:
        two.fabric.cut("a", "b")
        request = ask(two, name="golden")
        hear = two.a.mirrors.asking.hear
        for peer in (two.b.pool.identity, "somebody"):
            hear(GROUP, peer, CopyAnswer(request=request.id, outcome="here", name="x"))
        hear("no group", two.b.pool.identity, CopyAnswer(request="x", outcome="here"))
        assert state(two, request.id) == "LOCAL_DONE"

    play(scenario)


def test_who_asks_about_a_copy_of_somebody_else_hears_nothing_of_it() -> None:
    """A primary can have only those deleted that came with its mirror, and are of that instant."""

    async def scenario(two: Two) -> None:
        mine = copies.take(two.b.pool, ["db"], name="mine")
        replies = Replies(two.b.pool, GROUP)
        question = CopyQuestion(request="x", name="mine", stamp=mine.stamp, withdraw=True)
        answer = await two.b.call(replies.to(question))
        assert answer.outcome == "withdrawn"
        assert "mine" in two.b.pool.state.copies

    play(scenario)


def test_only_so_many_are_open_and_finished_ones_are_pruned() -> None:
    from isochrone.mirror.requests import OPEN_REQUESTS_MAX
    from isochrone.store.apply_matched import FINISHED_KEPT

    async def scenario(two: Two) -> None:
        for n in range(FINISHED_KEPT + 10):
            ask(two, id=f"r{n}", name=f"c{n}")
            await done(two, f"r{n}")
        assert len(two.a.group().requests) == FINISHED_KEPT + 1  # pruned before the newest ended
        two.fabric.cut("a", "b")
        for n in range(OPEN_REQUESTS_MAX):
            ask(two, id=f"o{n}", name=f"d{n}")
        with pytest.raises(Conflict, match="not finished"):
            ask(two)

    play(scenario)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_each_request_ends_and_none_lies(seed: int) -> None:
    """Links, power and side files fail; who hears DONE has equal copies, and one of each."""

    async def scenario(two: Two) -> None:
        dice = Random(seed)
        asked: list[str] = []
        for n in range(30):
            two.a.write("db", dice.randrange(20), f"db {n}")
            two.a.write("wal", dice.randrange(20), f"wal {n}")
            match dice.choice(["ask", "ask", "again", "cut", "heal", "crash a", "crash b", "drop"]):
                case "ask":
                    with suppress(Conflict):
                        ask(two, id=f"r{n}", name=f"c{n}", seconds=dice.choice([2.0, 60.0]),
                            wait_duplex=dice.random() < 0.5)  # fmt: skip
                        asked.append(f"r{n}")
                        await two.a.call(two.a.pool.flush())
                case "again" if asked:
                    id = dice.choice(asked)
                    before = [x.sites[0].state for x in two.a.group().requests if x.id == id]
                    assert [ask(two, id=id).sites[0].state] == before
                case "cut":
                    two.fabric.cut("a", "b")
                case "heal":
                    two.fabric.heal("a", "b")
                case "crash a":
                    await two.a.restart(power=dice.random() < 0.5)
                case "crash b":
                    await two.b.restart(power=dice.random() < 0.5)
                case "drop" if not two.a.group().sessions[two.b.pool.identity].cause:
                    drop_side_file(two)
            await sleep(dice.random() * 2)
        two.fabric.heal("a", "b")
        requests = two.a.mirrors.asking.requests
        await until(lambda: requests.look() == 0, seconds=200.0)
        await two.b.wait()
        assert {x.id for x in two.a.group().requests} == set(asked)
        for request in two.a.group().requests:
            name, (site,) = request.name, request.sites
            assert (name in two.a.pool.state.copies) == bool(request.lsn)
            assert (name in two.b.pool.state.copies) == (site.state == "DONE"), (name, site)
            if site.state == "DONE":
                assert equal(two, name)
        assert two.same("db", "wal")
        check_pool(two.a.pool)
        check_pool(two.b.pool)

    play(scenario)


def test_a_suspended_mirror_refuses_at_once_or_waits() -> None:
    async def scenario(two: Two) -> None:
        two.a.mirrors.suspend(GROUP)
        before = two.a.pool.log.lsn
        with pytest.raises(Conflict, match="not DUPLEX") as e:
            ask(two)
        assert "--wait-duplex" in e.value.hint
        assert two.a.pool.log.lsn == before
        request = ask(two, name="golden", wait_duplex=True)
        await sleep(20.0)
        assert state(two, request.id) == "NEW"
        two.a.write("db", 0, "when it was resumed")
        two.a.mirrors.resume(GROUP)
        found = await done(two, request.id)
        assert two.b.says("db@golden", 0) == "when it was resumed"
        assert found.taken > request.stamp

    play(scenario)


@pytest.mark.parametrize("arrived", [True, False])
def test_a_request_can_be_cancelled(arrived: bool) -> None:
    async def scenario(two: Two) -> None:
        requests = two.a.mirrors.asking.requests
        two.fabric.stall("b", "a", one_way=True) if arrived else two.fabric.cut("a", "b")
        request = ask(two, name="golden")
        await two.a.call(two.a.pool.flush())
        if arrived:
            await until(lambda: "golden" in two.b.pool.state.copies)
        requests.cancel(request.id)
        assert state(two, request.id) == "EXPIRED"
        with pytest.raises(DeadlinePassed, match="cancelled"):
            await done(two, request.id)
        two.fabric.heal("b", "a", one_way=True)
        two.fabric.heal("a", "b")
        await two.b.wait()
        await until(lambda: requests.look() == 0)
        assert "golden" not in two.b.pool.state.copies
        assert "golden" in two.a.pool.state.copies, "the copy here stays"
        requests.cancel(request.id)  # there is nothing left to be given up

    play(scenario)


def test_sites_are_asked_before_a_copy() -> None:
    async def scenario(two: Two) -> None:
        asking = two.a.mirrors.asking
        steps = await two.a.call(asking.ask_for_copy(GROUP, ["db"], [], seconds=5.0))
        assert [(x.stage, x.ok) for x in steps] == [
            ("local", True), ("configuration", True), ("configuration", True), ("secondary", True),
        ]  # fmt: skip
        assert two.b.group().reservations == [], "no room is kept"
        two.b.pool.failed = "a disk error"
        steps = await two.a.call(asking.ask_for_copy(GROUP, [], [], seconds=5.0))
        assert (steps[-1].ok, steps[-1].reason) == (False, "failed")
        two.b.pool.failed = ""

    play(scenario)


def test_what_waits_for_one_site_does_not_keep_another_waiting() -> None:
    """It was asked for now or not: whoever holds applications still for it must not wait."""

    async def scenario(two: Two) -> None:
        c = await two.third()
        asked, near, far = two.a.mirrors.asking.requests, two.b.pool.identity, c.pool.identity
        await until(lambda: all(asked.duplex(two.a.group(), x) for x in (near, far)))
        two.a.mirrors.suspend(GROUP, far)
        asked.request(GROUP, id="later", wait_duplex=True)
        now = asked.request(GROUP, at=[near], id="now", name="now")
        assert "now" in two.a.pool.state.copies, [x.state for x in now.sites]
        two.a.mirrors.resume(GROUP, far)
        await until(lambda: all(x.state == "DONE" for x in asked.find("later")[1].sites))

    play(scenario)
