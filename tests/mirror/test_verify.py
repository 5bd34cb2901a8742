"""Two sites compare what they have: damage and divergence are found, and healed."""

from __future__ import annotations

import pytest

from isochrone.dr.failover import promote
from isochrone.errors import Conflict, Damaged, InvalidInput
from isochrone.mirror import comparison
from isochrone.store import copies
from isochrone.types import BLOCK, TRACK
from tests.mirror.rotting import go_wrong, rot, verified
from tests.mirror.sites import Two, play, sleep, until
from tests.mirror.test_cascade import Three, cascaded


async def filled(two: Two, blocks: int = 200) -> None:
    for block in range(0, blocks, 4):
        two.a.write("db", block, f"db {block}", 3)
        two.a.write("wal", block + 1, f"wal {block}")
    await two.b.wait()


def found(progress: comparison.Progress) -> list[tuple[str, str, int, int]]:
    return [(f.kind, f.volume, f.offset // BLOCK, f.bytes // BLOCK) for f in progress.findings]


def test_equal_sites_are_equal() -> None:
    async def scenario(two: Two) -> None:
        await filled(two)
        for read in (False, True):
            progress = await verified(two.b, read=read)
            assert (progress.state, progress.found, progress.unstable_bytes) == ("done", 0, 0)
            assert (
                progress.bytes
                == progress.total
                == sum(v.size for v in two.b.pool.state.volumes.values() if v.kind == "volume")
            )
            assert (progress.bytes_read > 0) is read
        assert len(progress.history) == 2
        assert progress.last_read == progress.last
        assert 0 <= two.b.status().verified_age < 60

    play(scenario)


@pytest.mark.parametrize("side", ["a", "b"])
def test_rot_is_found_and_healed_with_all_that_share_it(side: str) -> None:
    async def scenario(two: Two) -> None:
        host: object = getattr(two, side)
        await filled(two)
        copies.take(two.a.pool, ["db"], name="keep")
        await two.b.wait(copy="keep")
        rot(host, "db", 4, 5, 100)
        plain = await verified(two.b)
        assert plain.found == 0, "only who reads the data can see that it rots"
        progress = await verified(two.b, read=True)
        where = "damaged there" if side == "a" else "damaged here"
        assert found(progress) == [(where, "db", 4, 2), (where, "db", 100, 1)]
        assert all(f.healed for f in progress.findings)
        for host in (two.a, two.b):
            for name in ("db", "db@keep"):
                assert host.says(name, 4) == "db 4"
                assert host.says(name, 100) == "db 100"
        repairs = getattr(two, side).mirrors.repairs
        assert repairs.healed == 3
        assert repairs.outcomes[0].owners == ["db", "db@keep"]
        await getattr(two, side).restart()  # what was healed is durable
        assert getattr(two, side).says("db@keep", 4) == "db 4"

    play(scenario)


def test_a_client_that_meets_damage_makes_it_heal() -> None:
    async def scenario(two: Two) -> None:
        await filled(two)
        for host in (two.a, two.b):
            rot(host, "wal", 5)
            with pytest.raises(Damaged):
                host.read("wal", 5)
            await until(lambda host=host: host.mirrors.repairs.healed == 1)
            assert host.says("wal", 5) == "wal 4"

    play(scenario)


def test_a_block_that_the_other_site_has_in_a_copy_only() -> None:
    async def scenario(two: Two) -> None:
        await filled(two)
        copies.take(two.a.pool, ["db"], name="old")
        two.a.write("db", 8, "new")
        await two.b.wait(copy="old")
        rot(two.b, "db@old", 8)
        with pytest.raises(Damaged):
            two.b.read("db@old", 8)
        await until(lambda: two.b.mirrors.repairs.healed == 1)
        assert two.b.says("db@old", 8) == "db 8"

    play(scenario)


def test_a_block_that_nobody_has_any_more_is_told() -> None:
    async def scenario(two: Two) -> None:
        await filled(two)
        copies.take(two.b.pool, ["db"], name="mine")
        two.a.write("db", 8, "new")
        await two.b.wait()
        rot(two.b, "db@mine", 8)
        with pytest.raises(Damaged):
            two.b.read("db@mine", 8)
        repairs = two.b.mirrors.repairs
        await until(lambda: bool(repairs.unhealed))
        assert "something else" in repairs.unhealed[0].why
        assert "db@mine" in repairs.unhealed[0].owners
        assert repairs.unhealed[0].offset == 8 * BLOCK
        copies.delete(two.b.pool, "mine")
        await until(lambda: not repairs.unhealed, 300)

    play(scenario)


def test_damage_waits_for_the_link() -> None:
    async def scenario(two: Two) -> None:
        await filled(two)
        two.fabric.cut("a", "b")
        rot(two.a, "db", 4)
        with pytest.raises(Damaged):
            two.a.read("db", 4)
        repairs = two.a.mirrors.repairs
        await until(lambda: bool(repairs.unhealed))
        two.fabric.heal("a", "b")
        await until(lambda: repairs.healed == 1, 600)
        assert two.a.says("db", 4) == "db 4"
        assert not repairs.unhealed

    play(scenario)


def test_sites_that_differ_are_told_and_sent_again() -> None:
    async def scenario(two: Two) -> None:
        await filled(two)
        go_wrong(two.b, "db", 17, "wrong")
        go_wrong(two.b, "wal", 300, "more")
        progress = await verified(two.b)
        assert found(progress) == [("different", "db", 17, 1), ("different", "wal", 300, 1)]
        assert not any(f.healed for f in progress.findings)
        assert not two.same("db")
        assert two.b.status().verified_unhealed == 2
        progress = await verified(two.b, repair=True)
        assert len(progress.findings) == 2
        assert all(f.healed for f in progress.findings)
        assert two.same("db", "wal")
        assert two.b.status().verified_unhealed == 0
        assert (await verified(two.b, read=True)).found == 0

    play(scenario)


def test_a_block_of_zeros_is_no_difference() -> None:
    async def scenario(two: Two) -> None:
        await filled(two)
        pool = two.b.pool
        pool.stage_write(pool.state.names["db"], 600, memoryview(bytes(BLOCK)))
        pool.commit()
        assert (await verified(two.b)).found == 0

    play(scenario)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_written_meanwhile_is_no_difference_and_hides_none(seed: int) -> None:
    async def scenario(two: Two) -> None:
        await filled(two)
        stop = False

        async def write() -> None:
            n = 0
            while not stop:
                n += 1
                for block in range(0, 120, 5):
                    two.a.write("db", block, f"{n} {block}")
                await two.a.pool.flush()
                await sleep(0.03)

        go_wrong(two.b, "db", 18, "wrong")  # in a track that never stands still
        go_wrong(two.b, "db", 900, "wrong")
        writing = two.a.site.spawn(write())
        await sleep(0.5)
        for read in (False, True):
            progress = await verified(two.b, read=read)
            assert found(progress) == [("different", "db", 18, 1), ("different", "db", 900, 1)]
            assert progress.unstable_bytes == 0
        stop = True
        await writing
        await until(lambda: not two.a.pool.state.pins, 200)

    play(scenario, seed=seed)


def test_a_suspended_mirror_is_compared_as_far_as_it_stands_still() -> None:
    async def scenario(two: Two) -> None:
        await filled(two)
        two.a.mirrors.suspend("g")
        await until(lambda: two.b.status().state != "DUPLEX")
        two.a.write("db", 0, "newer")
        progress = await verified(two.b)
        assert (progress.state, progress.found) == ("done", 0)
        assert progress.unstable_bytes == TRACK

    play(scenario)


def test_a_pass_goes_on_after_a_cut_link_and_after_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "READ_TRACKS", 4)
    monkeypatch.setattr(comparison, "SAVE_SECONDS", 0.0)

    async def scenario(two: Two) -> None:
        await filled(two, 1000)
        rot(two.b, "wal", 997)
        verifier = two.b.mirrors.verifier
        await two.b.call(verifier.start("g", read=True, rate=1 << 20))
        await until(lambda: verifier.progress("g").bytes > 8 * TRACK)
        two.fabric.cut("a", "b")
        await until(lambda: verifier.progress("g").reason != "")
        before = verifier.progress("g").bytes
        two.fabric.heal("a", "b")
        await until(lambda: verifier.progress("g").bytes > before)
        at = verifier.progress("g").bytes
        await two.b.restart()
        verifier = two.b.mirrors.verifier
        assert verifier.progress("g").state == "running"
        assert verifier.progress("g").bytes >= at - 5 * TRACK, "it goes on where it was"
        await until(lambda: verifier.progress("g").state == "done", 600)
        progress = verifier.progress("g")
        assert progress.bytes == progress.total
        assert found(progress) == [("damaged here", "wal", 997, 1)]
        assert progress.findings[0].healed

    play(scenario)


def test_a_pass_keeps_to_its_rate() -> None:
    async def scenario(two: Two) -> None:
        await filled(two, 1000)
        begun = two.b.site.clock.monotonic()
        await two.b.call(two.b.mirrors.verifier.start("g", read=True, rate=1 << 19))
        verifier = two.b.mirrors.verifier
        await until(lambda: verifier.progress("g").state == "done", 600)
        took = two.b.site.clock.monotonic() - begun
        assert took > verifier.progress("g").bytes_read / (1 << 19) * 0.9

    play(scenario)


def test_passes_by_the_clock_and_their_history() -> None:
    async def scenario(two: Two) -> None:
        await filled(two)
        verifier = two.b.mirrors.verifier
        with pytest.raises(InvalidInput):
            await verifier.schedule("g", 1.0, read=False, repair=False, rate=0)
        await two.b.call(verifier.schedule("g", 90.0, read=True, repair=False, rate=0))
        await sleep(20)
        assert len(verifier.progress("g").history) == 1
        await sleep(100)
        assert len(verifier.progress("g").history) == 2
        await two.b.restart()
        await sleep(100)
        verifier = two.b.mirrors.verifier
        assert len(verifier.progress("g").history) == 3
        assert verifier.progress("g").last_read is not None
        await two.b.call(verifier.schedule("g", 0, read=True, repair=False, rate=0))
        await sleep(200)
        assert len(verifier.progress("g").history) == 3

    play(scenario)


def test_who_may_ask() -> None:
    async def scenario(two: Two) -> None:
        with pytest.raises(Conflict, match="not mirrored to this"):
            await two.a.mirrors.verifier.start("g")
        with pytest.raises(Conflict, match="no comparison"):
            await two.b.mirrors.verifier.stop("g")
        with pytest.raises(InvalidInput):
            await two.b.mirrors.verifier.start("g", rate=1)

    play(scenario)


def test_a_pass_ends_with_the_mirror() -> None:
    async def scenario(two: Two) -> None:
        await filled(two, 1000)
        verifier = two.b.mirrors.verifier
        await two.b.call(verifier.start("g", read=True, rate=1 << 16))
        await sleep(1)
        await two.b.call(two.b.mirrors.remove("g"))
        await until(lambda: "g" not in verifier._progress, 60)

    play(scenario)


def test_who_follows_a_secondary_is_compared_with_it_and_heals_from_it() -> None:
    async def scenario(three: Three) -> None:
        await filled(three.two)
        await three.c.wait()
        stop = False

        async def write() -> None:
            n = 0
            while not stop:
                n += 1
                three.a.write("db", 8, f"{n}")
                await three.a.pool.flush()
                await sleep(0.05)

        writing = three.a.site.spawn(write())
        rot(three.b, "db", 100)
        rot(three.c, "wal", 5)
        go_wrong(three.c, "db", 900, "wrong")
        progress = await verified(three.c, read=True)
        assert found(progress) == [
            ("damaged there", "db", 100, 1), ("different", "db", 900, 1),
            ("damaged here", "wal", 5, 1),
        ]  # fmt: skip
        assert [f.healed for f in progress.findings] == [True, False, True]
        assert progress.unstable_bytes == 0
        assert (await verified(three.c, repair=True)).findings[0].healed
        stop = True
        await writing
        await three.b.wait()
        await three.c.wait()
        assert three.same()

    cascaded(scenario)


def test_a_comparison_after_the_sites_have_changed_places() -> None:
    async def scenario(two: Two) -> None:
        await filled(two)
        await verified(two.b)
        await two.b.call(promote(two.b.pool, two.b.mirrors, "g", force=True))
        with pytest.raises(Conflict):
            await two.b.mirrors.verifier.start("g")
        assert two.b.status().verified_age >= 0

    play(scenario)
