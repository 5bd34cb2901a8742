"""A new key for a site: no step breaks a link, and nobody else can do it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from isochrone.errors import Conflict, PeerFault
from isochrone.mirror.conversation import Conversation
from isochrone.mirror.identity import certificate_of, check_signature, make_identity, sign
from isochrone.mirror.messages import Renew
from isochrone.mirror.peers import Peers
from isochrone.mirror.renewal import Renewal, digest
from isochrone.world.documents import FolderDocuments
from tests.mirror.drawer import peer, site
from tests.mirror.locked import LockedHost, LockedTwo, play_locked
from tests.mirror.sites import GROUP, until

MADE = 1_800_000_000 * 10**9


async def renew(host: LockedHost, other: LockedHost) -> dict[str, str]:
    """As the daemon does it; `other` answers."""
    Renewal(other.peers, other.net)
    renewal = Renewal(host.peers, host.net)
    certificate = host.peers.prepare(MADE)
    failed: dict[str, str] = await host.call(renewal.tell(certificate))
    if not host.peers.untold():
        host.peers.take_next()
    return failed


async def reconnect(two: LockedTwo) -> None:
    """The link breaks and comes back; then data goes over it."""
    two.fabric.cut("a", "b")
    await until(lambda: not two.a.mirrors._live(GROUP))
    two.fabric.heal("a", "b")
    two.a.write("db", 5, f"after {two.a.pool.log.lsn}")
    await two.b.wait()
    assert two.same("db", "wal")


@pytest.mark.parametrize("primary", [True, False])
def test_links_go_on_with_the_new_key(tmp_path: Path, primary: bool) -> None:
    async def scenario(two: LockedTwo) -> None:
        host, other = (two.a, two.b) if primary else (two.b, two.a)
        old, live = host.peers.certificate, two.a.mirrors._live(GROUP)
        assert await renew(host, other) == {}
        new = host.peers.certificate
        assert new != old
        assert two.a.mirrors._live(GROUP) == live, "what is connected stays connected"
        peer = other.peers.find(host.site.name)
        assert (peer.certificate, peer.next) == (old, new)
        await reconnect(two)
        peer = other.peers.find(host.site.name)
        assert (peer.certificate, peer.next) == (new, b"")
        assert other.peers.by_certificate(old) is None, "the old key opens nothing any more"
        assert host.peers.next_identity == b""
        assert await renew(host, other) == {}  # and once more
        await reconnect(two)

    play_locked(tmp_path, scenario)


@pytest.mark.parametrize("primary", [True, False])
@pytest.mark.parametrize("step", ["prepared", "noted", "told", "written", "shown"])
def test_a_crash_at_each_step_leaves_a_link(tmp_path: Path, primary: bool, step: str) -> None:
    async def scenario(two: LockedTwo) -> None:
        host, other = (two.a, two.b) if primary else (two.b, two.a)
        certificate = host.peers.prepare(MADE)
        if step != "prepared":
            other.peers.offered(host.site.name, certificate)
        if step not in ("prepared", "noted"):
            host.peers.note_told(other.site.name, certificate)
        if step == "written":  # and what was to come is not cleared yet
            folder = FolderDocuments(tmp_path / host.site.name)
            folder.write("site.pem", host.peers.next_identity)
        if step == "shown":
            host.peers.take_next()
        for each in (host, other):
            await each.restart()
        two.a.write("db", 6, step)
        await two.b.wait()
        assert host.peers.next_identity == (
            b"" if step in ("written", "shown") else host.peers._documents.read("site-next.pem")
        )
        if step not in ("written", "shown"):
            assert await renew(host, other) == {}
        assert host.peers.certificate == certificate
        await reconnect(two)
        peer = other.peers.find(host.site.name)
        assert (peer.certificate, peer.next) == (certificate, b"")

    play_locked(tmp_path, scenario)


def test_a_site_that_cannot_be_told_is_waited_for(tmp_path: Path) -> None:
    async def scenario(two: LockedTwo) -> None:
        old = two.a.peers.certificate
        two.fabric.cut("a", "b")
        failed = await renew(two.a, two.b)
        assert list(failed) == ["b"]
        assert two.a.peers.certificate == old
        two.fabric.heal("a", "b")
        two.a.write("db", 1, "x")
        await two.b.wait()
        coming = certificate_of(two.a.peers.next_identity)
        assert await renew(two.a, two.b) == {}
        assert two.a.peers.certificate == coming, "it goes on with the same key"

    play_locked(tmp_path, scenario)


def test_an_older_version_cannot_be_told(tmp_path: Path) -> None:
    async def scenario(two: LockedTwo) -> None:
        two.b.net._server_context().set_alpn_protocols(["something-else"])
        failed = await renew(two.a, two.b)
        assert "version is older" in failed["b"]

    play_locked(tmp_path, scenario)


def test_only_who_has_the_new_key_may_name_it(tmp_path: Path) -> None:
    async def scenario(two: LockedTwo) -> None:
        Renewal(two.b.peers, two.b.net)
        mine, other = (make_identity("a", two.a.peers.id, MADE) for _ in range(2))

        async def say(certificate: bytes, key: bytes, present: bytes) -> None:
            channel = await two.a.net.connect_to_renew(two.a.peers.find("b"))
            talk = Conversation(channel)
            about = digest(present, certificate, channel.certificate, channel.binding)
            await talk.send(Renew(certificate=certificate, signature=sign(key, about)))
            try:
                await talk.expect(Renew)
            finally:
                channel.close()

        present = two.a.peers.certificate
        with pytest.raises(PeerFault, match="does not own the certificate"):
            await two.a.call(say(certificate_of(mine), other, present))
        with pytest.raises(PeerFault, match="does not own the certificate"):
            await two.a.call(say(certificate_of(mine), mine, two.b.peers.certificate))
        with pytest.raises(PeerFault, match="makes no sense"):
            await two.a.call(say(b"DER", mine, present))
        with pytest.raises(PeerFault, match="that of another site"):
            await two.a.call(say(two.b.peers.certificate, two.b.peers.identity, present))
        assert two.b.peers.find("a").next == b""
        await two.a.call(say(certificate_of(mine), mine, present))
        assert two.b.peers.find("a").next == certificate_of(mine)

    play_locked(tmp_path, scenario)


def test_silence_ends_it(tmp_path: Path) -> None:
    async def scenario(two: LockedTwo) -> None:
        Renewal(two.b.peers, two.b.net)
        channel = await two.a.call(two.a.net.connect_to_renew(two.a.peers.find("b")))
        assert await two.a.call(channel.read()) == b""

    play_locked(tmp_path, scenario)


def test_revoking_ends_both_keys(tmp_path: Path) -> None:
    async def scenario(two: LockedTwo) -> None:
        await renew(two.a, two.b)
        two.b.peers.revoke("a")
        channel = await two.a.call(two.a.net.connect("b"))
        with pytest.raises(PeerFault, match="TLS with"):
            await two.a.call(channel.read())
        assert two.b.peers.by_certificate(two.a.peers.certificate) is None

    play_locked(tmp_path, scenario)


def test_the_old_key_opens_nothing_once_the_new_one_was_shown(tmp_path: Path) -> None:
    async def scenario(two: LockedTwo) -> None:
        old = two.a.peers.identity
        await renew(two.a, two.b)
        await two.a.call(two.a.net.connect("b"))
        new = two.a.peers.identity
        two.a.peers._documents.write("site.pem", old)
        thief = await two.a.call(two.a.net.connect("b"))
        with pytest.raises(PeerFault, match="TLS with"):
            await two.a.call(thief.read())
        two.a.peers._documents.write("site.pem", new)

    play_locked(tmp_path, scenario)


def test_only_a_site_with_a_name_has_a_key_to_renew(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(Conflict, match="no certificate yet"):
        Peers(FolderDocuments(tmp_path / "x")).prepare(MADE)
    peers = site(tmp_path / "y", "y")
    assert peers.untold() == []
    peers.take_next()  # nothing is to come
    first = peers.prepare(MADE)
    assert peers.prepare(MADE + 1) == first
    about = digest(peers.certificate, first, b"", b"")
    check_signature(first, sign(peers.next_identity, about), about)
    assert asyncio.run(_nobody(peers)) == {}


async def _nobody(peers: Peers) -> dict[str, str]:
    from isochrone.mirror.secure import SecuredNet
    from isochrone.world.clock import SystemClock
    from isochrone.world.net import SystemNet

    net = SecuredNet(SystemNet(), peers, SystemClock())
    return await Renewal(peers, net).tell(peers.prepare(MADE))


def test_a_full_disk_at_the_end_leaves_one_key_in_use(tmp_path: Path) -> None:
    """What cannot be cleared is not needed any more; the key that is written is the one shown."""

    async def scenario(two: LockedTwo) -> None:
        write = two.a.peers._documents.write

        def full(name: str, content: bytes) -> None:
            if name == "site-next.pem" and not content:
                raise OSError(28, "No space left on device")
            write(name, content)

        two.a.peers._documents.write = full  # type: ignore[method-assign]
        assert await renew(two.a, two.b) == {}
        shown = certificate_of(two.a.peers.identity)
        assert two.a.peers.certificate == shown
        assert two.a.peers.next_identity == b""
        await reconnect(two)
        assert two.b.peers.find("a").certificates == (shown,)

    play_locked(tmp_path, scenario)


def test_joining_again_does_not_forget_the_key_that_is_to_come(tmp_path: Path) -> None:
    async def scenario(two: LockedTwo) -> None:
        certificate = two.a.peers.prepare(MADE)
        assert await told(two, certificate) == {}
        await two.a.join(two.b)  # with another role, say; and then a crash comes before the end
        assert two.b.peers.find("a").next == certificate
        assert await renew(two.a, two.b) == {}
        await two.a.join(two.b)  # with the new key, before a link has shown it
        assert two.b.peers.find("a").certificates == (certificate,)
        await reconnect(two)

    play_locked(tmp_path, scenario)


async def told(two: LockedTwo, certificate: bytes) -> dict[str, str]:
    Renewal(two.b.peers, two.b.net)
    failed: dict[str, str] = await two.a.call(Renewal(two.a.peers, two.a.net).tell(certificate))
    return failed


def test_the_next_certificate_is_of_the_same_site(tmp_path: Path) -> None:
    """TLS finds certificates by their subjects: one of another's name would keep that one out."""
    b = site(tmp_path / "b", "b")
    a, c = site(tmp_path / "a", "a"), site(tmp_path / "c", "c")
    b.admit(peer(a))
    b.admit(peer(c))
    for name, id in (("c", "c" * 32), ("a", "c" * 32), ("c", "a" * 32)):
        with pytest.raises(Conflict, match="another site"):
            b.offered("a", certificate_of(make_identity(name, id)))
    b.offered("a", certificate_of(make_identity("a", "a" * 32, MADE)))


def test_a_peer_cannot_hold_connections_without_end(tmp_path: Path) -> None:
    async def scenario(two: LockedTwo) -> None:
        Renewal(two.b.peers, two.b.net)

        async def silent() -> list[object]:
            there = two.a.peers.find("b")
            channels = [await two.a.net.connect_to_renew(there) for _ in range(5)]
            try:
                async with asyncio.timeout(1.0):
                    return [await each.read() for each in channels[2:]]
            finally:
                for each in channels:
                    each.close()

        assert len(await two.a.call(silent())) == 3, "two at a time, and no more"
        assert await renew(two.a, two.b) == {}

    play_locked(tmp_path, scenario)


def test_links_of_the_old_key_begin_anew_once_the_new_one_was_seen(tmp_path: Path) -> None:
    async def scenario(two: LockedTwo) -> None:
        await renew(two.b, two.a)
        (before,) = two.a.mirrors._live(GROUP).values()
        two.a.write("db", 7, "on the old link")
        await two.b.wait()
        assert list(two.a.mirrors._live(GROUP).values()) == [before]
        channel = await two.b.call(two.b.net.connect("a"))
        await until(lambda: before not in two.a.mirrors._live(GROUP).values())
        two.a.write("db", 8, "on the new link")
        await two.b.wait()
        assert two.same("db", "wal")
        channel.close()

    play_locked(tmp_path, scenario)
