"""The queue of damage: bounded, patient, and not fooled. Healing itself is in `test_verify`."""

from __future__ import annotations

from random import Random

import pytest

from isochrone.errors import Damaged, NoSpace
from isochrone.mirror import fetching, repair
from isochrone.mirror.messages import Fetch, Fetched
from isochrone.store import copies, mend, volumes
from isochrone.store.scrub import Scrub
from isochrone.types import BLOCK, MIB
from tests.mirror.rotting import rot
from tests.mirror.sites import Two, fill, play, sleep, until


def test_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repair, "QUEUE_MAX", 100)
    monkeypatch.setattr(repair, "NOTICE_MAX", 60)

    async def scenario(two: Two) -> None:
        repairs = two.b.mirrors.repairs
        id = two.b.pool.state.names["db"]
        for start in (0, 1000, 2000):
            repairs.notice(id, start, 1 << 40)
        assert repairs.waiting == 100
        await until(lambda: repairs.waiting == 0)
        assert (repairs.healed, repairs.unhealed, len(repairs.outcomes)) == (0, [], 0)

    play(scenario)


def test_a_pool_without_mirrors_does_not_look() -> None:
    async def scenario(two: Two) -> None:
        volumes.create(two.a.pool, "alone", MIB)
        two.a.mirrors.repairs.notice(two.a.pool.state.names["alone"], 0, 5)
        assert two.a.mirrors.repairs.waiting == 0

    play(scenario, made=False)


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_peer_that_answers_nonsense(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it sends is not written, and the mirror goes on."""

    async def answer(pool: object, ids: object, message: Fetch) -> Fetched:
        return Fetched(request=message.request, found=message.blocks[:1], data=fill("nonsense"))

    monkeypatch.setattr(fetching, "answer", answer)

    async def scenario(two: Two) -> None:
        host = getattr(two, side)
        two.a.write("db", 4, "good")
        await two.b.wait()
        rot(host, "db", 4)
        with pytest.raises(Damaged):
            host.read("db", 4)
        repairs = host.mirrors.repairs
        await until(lambda: bool(repairs.unhealed))
        assert "did not help" in repairs.unhealed[0].why
        with pytest.raises(Damaged):
            host.read("db", 4)
        two.a.write("db", 9, "on")
        await two.b.wait()
        monkeypatch.undo()
        repairs.retry()
        await until(lambda: repairs.healed == 1)
        assert host.says("db", 4) == "good"
        assert not repairs.unhealed

    play(scenario)


def test_damage_that_is_overwritten_is_forgotten() -> None:
    async def scenario(two: Two) -> None:
        two.fabric.cut("a", "b")
        await sleep(15)  # that is noticed by silence
        rot(two.a, "db", 0)
        with pytest.raises(Damaged):
            two.a.read("db", 0)
        repairs = two.a.mirrors.repairs
        await until(lambda: bool(repairs.unhealed))
        assert "no other site" in repairs.unhealed[0].why
        two.a.write("db", 0, "over")
        await until(lambda: not repairs.unhealed, 300)
        assert repairs.healed == 0

    play(scenario)


def test_a_good_copy_at_the_same_site_is_enough() -> None:
    async def scenario(two: Two) -> None:
        two.a.write("db", 4, "same")
        copies.take(two.a.pool, ["db"], name="c")
        two.a.write("db", 4, "same")  # the same content, born again
        two.fabric.cut("a", "b")
        rot(two.a, "db", 4)
        with pytest.raises(Damaged):
            two.a.read("db", 4)
        await until(lambda: two.a.mirrors.repairs.healed == 1)
        assert two.a.says("db", 4) == "same"

    play(scenario)


def test_an_answer_that_nobody_waits_for_is_ignored() -> None:
    async def scenario(two: Two) -> None:
        two.a.mirrors.repairs.hear("g", "x", Fetched(request=5, found=(1,), data=bytes(BLOCK)))
        await sleep(1)
        assert two.a.mirrors.repairs.healed == 0

    play(scenario)


def test_what_a_scrub_finds_is_healed() -> None:
    async def scenario(two: Two) -> None:
        for n in range(20):
            two.a.write("db", n, f"{n}")
        await two.b.wait()
        await two.b.call(two.b.pool.flush())
        rot(two.b, "db", 3, 4, 9)
        scrub = Scrub(two.b.pool)
        two.b.site.spawn(started(scrub))
        await until(lambda: scrub.progress.state == "done")
        assert scrub.progress.damaged == 2
        await until(lambda: two.b.mirrors.repairs.healed == 3)
        assert [two.b.says("db", n) for n in (3, 4, 9)] == ["3", "4", "9"]

    play(scenario)


async def started(scrub: Scrub) -> None:
    scrub.start()


def test_a_round_that_fails_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def heal(*_: object) -> set[int]:
        raise NoSpace("the disk under the pool is full")

    monkeypatch.setattr(mend, "heal", heal)

    async def scenario(two: Two) -> None:
        two.a.write("db", 4, "good")
        await two.b.wait()
        rot(two.b, "db", 4)
        with pytest.raises(Damaged):
            two.b.read("db", 4)
        await sleep(10)
        assert two.b.mirrors.repairs.healed == 0
        monkeypatch.undo()
        await until(lambda: two.b.mirrors.repairs.healed == 1, 200)

    play(scenario)


def test_a_mirror_that_damage_holds_up_goes_on_once_it_is_healed() -> None:
    async def scenario(two: Two) -> None:
        for n in range(4):
            two.a.write("db", n, f"{n}")
        await two.b.wait()
        two.a.mirrors.suspend("g")
        await until(lambda: two.b.status().state == "SUSPENDED")
        two.a.write("db", 3, "new")  # its track is sent again, with what rots in it
        rot(two.a, "db", 1)
        two.a.mirrors.resume("g")
        await until(lambda: two.a.mirrors.repairs.healed == 1, 600)
        await two.b.wait()
        assert two.same("db")
        assert two.b.says("db", 1) == "1"

    play(scenario)


@pytest.mark.parametrize("seed", range(4))
def test_rot_at_both_sites_among_writes_crashes_and_cuts(seed: int) -> None:
    """Whatever rots where the other site still has it is well in the end, and nothing is wrong."""
    random = Random(seed)

    async def scenario(two: Two) -> None:
        names = ("db", "wal")
        for n in range(120):
            two.a.write(names[n % 2], n, f"{n}")
        await two.b.wait()
        for turn in range(6):
            blocks = random.sample(range(120), 8)
            for block in blocks[:3]:
                two.a.write(names[block % 2], block, f"{turn} {block}")
            await two.b.wait()
            await two.a.call(two.a.pool.flush())
            for host, mine in ((two.a, blocks[3:5]), (two.b, blocks[5:])):
                await host.call(host.pool.note_durable(at_once=True))
                for block in mine:
                    rot(host, names[block % 2], block)
            await two.b.call(two.b.mirrors.verifier.start("g", read=True))
            await sleep(random.choice((0.0, 0.5, 3.0)))
            match random.randrange(4):
                case 0:
                    await two.a.restart()
                case 1:
                    await two.b.restart()
                case 2:
                    two.fabric.cut("a", "b")
                    await sleep(random.uniform(0, 30))
                    two.fabric.heal("a", "b")
            two.a.write("db", 0, f"after {turn}")
            await two.b.wait(timeout=600)
            verifier = two.b.mirrors.verifier
            await until(lambda v=verifier: v.progress("g").state != "running", 600)
        await two.b.call(verifier.start("g", read=True))
        await until(lambda: verifier.progress("g").state != "running", 600)
        assert verifier.progress("g").state == "done"
        assert all(f.healed and f.kind != "different" for f in verifier.progress("g").findings)
        assert two.same(*names)

    play(scenario, seed=seed, seconds_max=20000)
