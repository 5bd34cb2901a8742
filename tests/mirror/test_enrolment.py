"""A token lets one site in, once, in time; nothing else does, and nothing is left half done."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.errors import Conflict, InvalidInput, IsochroneError, PeerFault, Unavailable
from isochrone.mirror import enrolment
from isochrone.mirror.conversation import Conversation
from isochrone.mirror.enrolment import (
    FAILURES_MAX,
    FAILURES_S,
    INVITED_S_MAX,
    TOKEN_CHARS_MAX,
    Failures,
    Token,
    parse_token,
    verifier,
)
from isochrone.mirror.identity import fingerprint
from isochrone.mirror.messages import Hello, Join, Joined, Sync
from isochrone.mirror.peers import INVITATIONS_MAX, Role
from isochrone.mirror.secure import TlsChannel, anyone
from tests.mirror.drawer import peer, site
from tests.mirror.locked import LockedTwo, play_locked
from tests.mirror.sites import sleep

TOKEN = Token("h:1", "east", "aa" * 32, "bb" * 16, "cc" * 16, 1_800_000_000)


def test_a_token_is_one_word() -> None:
    text = TOKEN.text()
    assert parse_token(f"  {text}\n") == TOKEN
    assert len(text) < TOKEN_CHARS_MAX / 4
    assert text.replace(".", "").replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "isochrone1.",
        TOKEN.text()[:-6],
        TOKEN.text() + "A" * TOKEN_CHARS_MAX,
        "other." + TOKEN.text(),
        msgspec.structs.replace(TOKEN, address="/path").text(),
        msgspec.structs.replace(TOKEN, secret="xx").text(),
        msgspec.structs.replace(TOKEN, secret="").text(),
    ],
)
def test_what_is_no_token(text: str) -> None:
    with pytest.raises(InvalidInput, match="not a token"):
        parse_token(text)


@given(st.text(max_size=60))
def test_any_text(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_token(enrolment.TOKEN_MARK + text)


def test_failures_are_counted_over_a_minute() -> None:
    failures = Failures()
    for n in range(FAILURES_MAX):
        assert not failures.too_many(n * 0.1)
        failures.note(n * 0.1)
    assert failures.too_many(2.0)
    assert not failures.too_many(FAILURES_S + 0.1)


def names(two: LockedTwo) -> tuple[list[str], list[str]]:
    """Who is known at `a`, and at `b`."""
    return [p.name for p in two.a.peers.all], [p.name for p in two.b.peers.all]


def test_both_know_each_other(tmp_path: Path) -> None:
    async def scenario(two: LockedTwo) -> None:
        token = two.a.enrolment.invite(Role.REPLICATE, 60, "")
        assert (tmp_path / "a" / "site.json").read_text().count(token.secret) == 0
        await two.b.call(two.b.enrolment.join(token.text(), Role.TAKEOVER, "b.example:9"))
        [b], [a] = two.a.peers.all, two.b.peers.all
        assert (b.name, b.role, b.pool, b.address) == (
            *("b", Role.REPLICATE, two.b.pool.identity),
            "b.example:9",
        )
        assert (a.name, a.role, a.pool, a.address) == (
            *("a", Role.TAKEOVER, two.a.pool.identity),
            two.a.address,
        )
        assert a.certificate == two.a.peers.certificate
        await two.b.call(two.b.enrolment.join(token.text(), Role.TAKEOVER, ""))  # said again
        assert names(two) == (["b"], ["a"])
        await two.a.restart()
        await two.b.restart()
        assert names(two) == (["b"], ["a"])

    play_locked(tmp_path, scenario, joined=False)


def test_a_token_that_does_not_count(tmp_path: Path) -> None:
    async def scenario(two: LockedTwo) -> None:
        async def fails(token: Token, words: str, kind: type[IsochroneError] = PeerFault) -> None:
            with pytest.raises(kind, match=words):
                await two.b.call(two.b.enrolment.join(token.text(), Role.TAKEOVER, ""))
            assert names(two) == ([], [])

        replace = msgspec.structs.replace
        good = two.a.enrolment.invite(Role.TAKEOVER, 60, "")
        await fails(replace(good, secret="00" * 16), "not known here")
        await fails(replace(good, invitation="00" * 16), "not known here")
        await fails(replace(good, fingerprint="00" * 32), "not the site that made the token")
        own = replace(good, fingerprint=fingerprint(two.b.peers.certificate))
        await fails(own, "of this very site", Conflict)
        await fails(replace(good, address="a:1"), "nobody answers", Unavailable)
        late = two.a.enrolment.invite(Role.TAKEOVER, 5, "")
        await sleep(6)
        await fails(late, "has run out")
        two.b.peers.admit(peer(site(tmp_path / "c", "c"), name="a"))
        with pytest.raises(Conflict, match="with another certificate"):
            await two.b.call(two.b.enrolment.join(good.text(), Role.TAKEOVER, ""))
        two.b.peers.revoke("a")
        await two.b.join(two.a)

    play_locked(tmp_path, scenario, joined=False)


def test_used_once(tmp_path: Path) -> None:
    async def scenario(two: LockedTwo) -> None:
        token = two.a.enrolment.invite(Role.TAKEOVER, 60, "")
        await two.b.call(two.b.enrolment.join(token.text(), Role.TAKEOVER, ""))
        other = site(tmp_path / "c", "c")
        two.b.peers.revoke("a")
        two.b.enrolment._peers = two.b.net._peers = other  # the token was overheard
        with pytest.raises(PeerFault, match="used already"):
            await two.b.call(two.b.enrolment.join(token.text(), Role.TAKEOVER, ""))
        assert names(two)[0] == ["b"]
        assert other.all == ()

    play_locked(tmp_path, scenario, joined=False)


def test_a_link_cut_anywhere_leaves_nothing_half_done(tmp_path: Path) -> None:
    """Whenever it is cut: the same token works afterwards, or had worked already."""

    async def scenario(two: LockedTwo) -> None:
        random = Random(3)
        for _ in range(15):
            token = two.a.enrolment.invite(Role.TAKEOVER, 600, "").text()
            joining = two.b.site.spawn(two.b.enrolment.join(token, Role.TAKEOVER, ""))
            await sleep(random.uniform(0, 0.3))
            two.fabric.cut("a", "b")
            await asyncio.wait({joining})
            joining.exception()
            two.fabric.heal_all()
            await sleep(30)
            await two.b.call(two.b.enrolment.join(token, Role.TAKEOVER, ""))
            assert names(two) == (["b"], ["a"])
            two.a.peers.revoke("b")
            two.b.peers.revoke("a")

    play_locked(tmp_path, scenario, joined=False)


async def stranger(two: LockedTwo) -> TlsChannel:
    valve = two.b.net.valve("*")
    return await two.b.net.call(two.a.address, anyone(ssl.PROTOCOL_TLS_CLIENT), valve)


def test_strangers_may_only_ask_to_join(tmp_path: Path) -> None:
    async def scenario(two: LockedTwo) -> None:
        async def say(message: Hello | Join | Sync) -> None:
            talk = Conversation(await stranger(two))
            try:
                await talk.send(message)
                await talk.expect(Joined)
            finally:
                talk.close()  # few of one host are listened to at once

        hello = Hello(pool="x", group="g", lineage="", epoch=0, cut=0)
        with pytest.raises(PeerFault, match="sent Hello, not Join"):
            await two.b.call(say(hello))
        with pytest.raises(PeerFault, match="sent Sync, not Join"):
            await two.b.call(say(Sync(token=1)))
        assert two.a.group().sessions == {}
        for _ in range(FAILURES_MAX):
            with pytest.raises(PeerFault):
                await two.b.call(say(hello))
        with pytest.raises(PeerFault, match="too many attempts"):
            await two.b.join(two.a)
        await sleep(FAILURES_S + 1)
        await two.b.join(two.a)

    play_locked(tmp_path, scenario, joined=False)


def test_who_may_invite(tmp_path: Path) -> None:
    async def scenario(two: LockedTwo) -> None:
        invite = two.a.enrolment.invite
        for seconds in (0, INVITED_S_MAX + 1):
            with pytest.raises(InvalidInput, match="at most 7 days"):
                invite(Role.TAKEOVER, seconds, "")
        with pytest.raises(InvalidInput, match="is not HOST:PORT"):
            invite(Role.TAKEOVER, 1, "/path")
        for _ in range(INVITATIONS_MAX):
            invite(Role.TAKEOVER, 60, "a.example:1")
        with pytest.raises(Conflict, match="are open"):
            invite(Role.TAKEOVER, 60, "")
        two.a.net.addresses[:] = ["0.0.0.0:1"]
        with pytest.raises(Conflict, match="no link port"):
            invite(Role.TAKEOVER, 60, "")

    play_locked(tmp_path, scenario, joined=False)


def test_the_secret_is_kept_as_a_digest() -> None:
    assert verifier("00" * 16) != verifier("01" * 16)
    assert len(verifier("00" * 16)) == 32
