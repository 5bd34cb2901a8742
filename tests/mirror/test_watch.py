"""Limits of the side file, suspension and pacing, over two sites in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from isochrone.errors import Conflict
from isochrone.mirror import terms
from isochrone.mirror.limits import SIDE_FILE_BYTES_MIN
from isochrone.mirror.status import PeerStatus
from isochrone.store.check import check_pool
from isochrone.store.cleaner import Cleaner
from isochrone.store.pool import Limits
from isochrone.types import BLOCK, MIB
from tests.mirror import sites
from tests.mirror.sites import GROUP, Two, play, until


def seen(two: Two) -> PeerStatus:
    """The secondary as the primary sees it."""
    (peer,) = two.a.status().peers
    return peer


def set_terms(two: Two, **changed: Any) -> None:
    terms.set_limits(two.a.pool, GROUP, terms.served(two.a.pool, GROUP), **changed)


def write_over(two: Two, size: int, text: str = "over") -> None:
    """So many bytes of writes, all to the same quarter of a MiB."""
    data = memoryview(b"".join(sites.fill(f"{text}{n}") for n in range(64)))
    for _ in range(size // len(data)):
        two.a.device("db").write(0, data)
        two.a.pool.commit()


async def clean(two: Two) -> None:
    for _ in range(3):
        await two.a.call(Cleaner(two.a.pool).round())


def log_bytes(two: Two) -> int:
    return two.a.pool.log.bytes_on_disk


def test_a_link_that_is_down_for_too_long_suspends_and_frees_the_log() -> None:
    async def scenario(two: Two) -> None:
        set_terms(two, limit_bytes=SIDE_FILE_BYTES_MIN)
        await until(lambda: seen(two).acked_cut > 0)
        two.fabric.cut("a", "b")
        await until(lambda: not seen(two).connected)
        assert (seen(two).state, seen(two).cause) == ("INACTIVE", "link")
        write_over(two, SIDE_FILE_BYTES_MIN + 8 * MIB)
        before = log_bytes(two)
        await until(lambda: seen(two).state == "SUSPENDED")
        peer = seen(two)
        assert (peer.cause, peer.pair, peer.keeps_log) == ("limit", "SUSPENDED", False)
        assert "side file reached" in peer.why
        assert [s.cause for s in peer.suspensions] == ["link", "limit"]
        assert peer.missing == {"db": 64 * BLOCK}
        two.a.write("db", 70, "production goes on")
        await clean(two)
        assert log_bytes(two) <= before - SIDE_FILE_BYTES_MIN // 2, "the log was not given back"
        await two.a.restart()
        assert seen(two).state == "SUSPENDED", "it is forgotten by a restart"
        two.fabric.heal_all()
        await two.b.wait()
        assert two.same("db", "wal")
        await until(lambda: seen(two).state == "ACTIVE")
        assert seen(two).cause == ""
        assert two.b.status().state == "DUPLEX"
        check_pool(two.b.pool)

    play(scenario)


def test_with_manual_resync_somebody_has_to_say_so() -> None:
    async def scenario(two: Two) -> None:
        set_terms(two, limit_bytes=SIDE_FILE_BYTES_MIN, resync="manual")
        two.fabric.cut("a", "b")
        await until(lambda: not seen(two).connected)
        write_over(two, SIDE_FILE_BYTES_MIN)
        await until(lambda: seen(two).state == "SUSPENDED")
        two.fabric.heal_all()
        await until(lambda: two.b.status().cause_kind == "refused")
        assert "resumed by a command" in two.b.status().cause
        await asyncio.sleep(20)
        assert seen(two).state == "SUSPENDED"
        two.a.mirrors.resume(GROUP)
        await two.b.wait()
        assert two.same("db", "wal")

    play(scenario)


def test_a_command_suspends_until_another_one_resumes() -> None:
    async def scenario(two: Two) -> None:
        two.a.mirrors.suspend(GROUP)
        assert (seen(two).state, seen(two).cause) == ("SUSPENDED", "command")
        two.a.write("db", 5, "not yet")
        await until(lambda: two.b.status().cause_kind == "refused")
        assert "suspended by a command" in two.b.status().cause
        await asyncio.sleep(30)
        assert two.b.says("db", 5) == ""
        assert two.b.status().recovery_point_age > 25
        assert two.a.status().state == "SUSPENDED"
        two.a.mirrors.resume(GROUP, two.b.pool.identity[:8])
        await two.b.wait()
        assert two.b.says("db", 5) == "not yet"
        assert seen(two).suspensions[0].cause == "command"
        assert all(s.until for s in seen(two).suspensions)

    play(scenario)


def test_who_may_fall_behind_is_not_suspended() -> None:
    async def scenario(two: Two) -> None:
        set_terms(two, policy="fall-behind", limit_bytes=SIDE_FILE_BYTES_MIN)
        two.fabric.cut("a", "b")
        await until(lambda: not seen(two).connected)
        write_over(two, SIDE_FILE_BYTES_MIN)
        await until(lambda: not seen(two).keeps_log)
        assert seen(two).state == "INACTIVE"
        await clean(two)
        two.fabric.heal_all()
        await two.b.wait()
        assert two.same("db", "wal")
        await until(lambda: seen(two).keeps_log)
        assert [s.cause for s in seen(two).suspensions] == ["link"]

    play(scenario)


def test_the_pool_is_not_filled_for_a_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log of a secondary that is away goes before production is refused room."""
    small = Limits(
        segment_bytes=1 * MIB, node_bytes=4 * MIB, checkpoint_bytes=1 << 40,
        reserve_bytes=4 * MIB, capacity_bytes=48 * MIB, garbage_bytes=2 * MIB, burst_bytes=4 * MIB,
    )  # fmt: skip
    monkeypatch.setattr(sites, "LIMITS", small)

    async def scenario(two: Two) -> None:
        set_terms(two, limit_bytes=0)
        cleaner = Cleaner(two.a.pool)
        two.a.site.spawn(cleaner.run())
        two.fabric.cut("a", "b")
        await until(lambda: not seen(two).connected)
        for _ in range(200):
            write_over(two, MIB // 2)  # raises `NoSpace` if it is refused
            again = True
            while again:  # as the front door holds writers up
                wait, again = two.a.pool.space.pace()
                await asyncio.sleep(0.05 + wait)
        peer = seen(two)
        assert (peer.state, peer.cause) == ("SUSPENDED", "limit")
        assert "the pool needs the room" in peer.why
        two.fabric.heal_all()
        await two.b.wait()
        assert two.same("db", "wal")

    play(scenario)


@pytest.mark.parametrize("paced", [True, False])
def test_pacing_holds_the_recovery_point(paced: bool) -> None:
    """A host that writes faster than the link is slowed down, as far as it takes and no further."""

    async def scenario(two: Two) -> None:
        set_terms(two, policy="pace" if paced else "suspend", limit_seconds=10.0 * paced,
                  limit_bytes=0)  # fmt: skip
        two.fabric.weather.bytes_per_s = 400e3
        ages, delays, written = [], [], 0
        end = asyncio.get_running_loop().time() + (60 if paced else 15)
        while asyncio.get_running_loop().time() < end:
            delay = two.a.mirrors.pace("db")
            delays.append(delay)
            await asyncio.sleep(0.05 + delay)
            two.a.write("db", written * 16 % 1008, f"{written}", count=16)
            written += 1
            if written % 5 == 0:
                await two.a.call(two.a.pool.flush())
            ages.append(seen(two).backlog_age)
        if paced:
            assert max(ages) < 15.0
            assert max(delays) > 0
            assert two.a.mirrors.pace("wal") == two.a.mirrors.pace("db")
            assert two.a.mirrors.pace("nix") == 0.0
        else:
            assert not any(delays)
        assert seen(two).state in ("ACTIVE", "RECOVERY")
        two.fabric.weather.bytes_per_s = 1e9
        await two.b.wait()
        await asyncio.sleep(5)
        assert two.a.mirrors.pace("db") == 0.0, "writers wait for nothing"

    play(scenario)


def test_a_primary_that_falls_silent_shows_an_age_that_rises() -> None:
    async def scenario(two: Two) -> None:
        await asyncio.sleep(60)
        assert two.b.status().recovery_point_age < 3, "an idle primary is not behind"
        two.a.write("db", 3, "never arrives")
        two.fabric.cut("a", "b")
        before = two.b.status().recovery_point_age
        await asyncio.sleep(30)
        status = two.b.status()
        assert status.recovery_point_age >= before + 29
        assert (status.state, status.cause_kind) == ("SUSPENDED", "link")
        assert status.hour.max >= 28
        assert status.hour.p50 < 3
        assert seen(two).backlog_age >= 25
        assert seen(two).backlog_bytes == BLOCK

    play(scenario)


def test_the_interval_changes_while_it_runs() -> None:
    async def scenario(two: Two) -> None:
        terms.set_interval(two.a.pool, GROUP, 10.0)
        assert two.a.status().interval == 10.0
        await asyncio.sleep(12)
        cut = two.a.group().cut
        for n in range(100):
            two.a.write("db", 1, f"{n}")
            await asyncio.sleep(0.2)
        assert 1 <= two.a.group().cut - cut <= 4
        terms.set_interval(two.a.pool, GROUP, 0.0)
        assert two.a.status().interval == 0.2
        with pytest.raises(Conflict, match="its primary places the cuts"):
            terms.set_interval(two.b.pool, GROUP, 1.0)

    play(scenario)


def test_coalescing_is_counted() -> None:
    async def scenario(two: Two) -> None:
        await asyncio.sleep(3)
        terms.set_interval(two.a.pool, GROUP, 5.0)
        await asyncio.sleep(6)
        for n in range(50):
            two.a.write("db", 1, f"{n}")
            await asyncio.sleep(0.02)
        await two.b.wait()
        await asyncio.sleep(3)
        assert seen(two).coalescing > 10
        assert seen(two).shipped.total >= seen(two).shipped.data > BLOCK

    play(scenario)


def test_a_secondary_that_is_forgotten_keeps_nothing() -> None:
    async def scenario(two: Two) -> None:
        peer = two.b.pool.identity
        with pytest.raises(Conflict, match="follows group"):
            two.a.mirrors.forget(GROUP, peer)
        two.b.crash()
        await until(lambda: not seen(two).connected)
        two.a.mirrors.forget(GROUP, peer)
        assert two.a.status().peers == []
        assert two.a.status().state == "SIMPLEX"

    play(scenario)
