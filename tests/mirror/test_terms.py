"""What an operator may say about a session, and what not."""

from __future__ import annotations

import pytest

from isochrone.errors import Conflict, InvalidInput, NotFound
from isochrone.mirror import terms
from isochrone.mirror.conversation import Conversation
from isochrone.mirror.limits import SIDE_FILE_BYTES_MIN
from isochrone.mirror.messages import Hello, Refuse, Welcome
from isochrone.mirror.pairs import Cause
from isochrone.store import records as r
from tests.mirror.sites import GROUP, Two, play


def test_limits_are_changed_one_by_one_and_last() -> None:
    async def scenario(two: Two) -> None:
        pool, peer = two.a.pool, two.b.pool.identity
        assert terms.served(pool, GROUP) == terms.served(pool, GROUP, peer[:8]) == [peer]
        terms.set_limits(pool, GROUP, [peer], policy="pace")
        terms.set_limits(pool, GROUP, [peer], limit_seconds=30.0)
        await two.a.call(pool.flush())
        await two.a.restart()
        session = two.a.group().sessions[peer]
        assert (session.policy, session.limit_seconds, session.limit_bytes) == (
            "pace", 30.0, 8 << 30,
        )  # fmt: skip
        assert terms.limits_of(session).policy == "pace"

    play(scenario)


def test_what_makes_no_sense_changes_nothing() -> None:
    async def scenario(two: Two) -> None:
        pool, peer = two.a.pool, two.b.pool.identity
        lsn = pool.log.lsn
        for wrong in (
            {"policy": "hope"}, {"limit_bytes": SIDE_FILE_BYTES_MIN - 1},
            {"limit_seconds": 0.1}, {"resync": "never"},
        ):  # fmt: skip
            with pytest.raises(InvalidInput):
                terms.set_limits(pool, GROUP, [peer], **wrong)  # type: ignore[arg-type]
        for seconds in (0.001, 1e6):
            with pytest.raises(InvalidInput):
                terms.set_interval(pool, GROUP, seconds)
        with pytest.raises(NotFound):
            terms.served(pool, GROUP, "nobody")
        with pytest.raises(NotFound):
            terms.served(pool, "nix")
        with pytest.raises(Conflict, match="nobody follows"):
            terms.served(two.b.pool, GROUP)
        assert pool.log.lsn == lsn

    play(scenario)


def test_a_command_outranks_what_came_by_itself() -> None:
    async def scenario(two: Two) -> None:
        pool, group, peer = two.a.pool, two.a.group(), two.b.pool.identity
        assert terms.suspend(pool, GROUP, peer, Cause.LIMIT, "full")
        assert not terms.suspend(pool, GROUP, peer, Cause.LIMIT, "fuller")
        assert terms.suspend(pool, GROUP, peer, Cause.COMMAND, "by hand")
        assert not terms.suspend(pool, GROUP, peer, Cause.LIMIT, "full")
        assert not terms.suspend(pool, GROUP, peer, Cause.COMMAND, "by hand")
        with pytest.raises(Conflict, match="suspended by a command"):
            terms.admit(pool, group, peer)
        assert terms.resume(pool, GROUP, peer)
        assert not terms.resume(pool, GROUP, peer)
        terms.admit(pool, group, peer)
        terms.admit(pool, group, "a stranger")
        pool.record(r.SessionSuspended(group=GROUP, peer=peer, cause="x", stamp=1, kind="limit"))
        terms.admit(pool, group, peer)
        assert not group.sessions[peer].cause

    play(scenario)


def test_only_so_many_secondaries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each keeps a part of the log, and whoever reaches the link may say any name."""
    monkeypatch.setattr(terms, "FOLLOWERS_MAX", 2)

    async def scenario(two: Two) -> None:
        async def follow(pool: str) -> object:
            talk = Conversation(await two.b.site.world.net.connect(two.a.address))
            try:
                await talk.send(Hello(pool=pool, group=GROUP, lineage="", epoch=0, cut=0))
                return await talk.receive()
            finally:
                talk.close()

        assert isinstance(await two.b.call(follow("c" * 32)), Welcome)
        answer = await two.b.call(follow("d" * 32))
        assert isinstance(answer, Refuse)
        assert "2 secondaries follow group" in answer.message
        assert isinstance(await two.b.call(follow("c" * 32)), Welcome)
        assert len(two.a.group().sessions) == 2

    play(scenario)
