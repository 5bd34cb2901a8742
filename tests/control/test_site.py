"""A site as the daemon has it: its files, its peers, its limits."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from isochrone.control.site import DAY_S, LocalSite, has_certificate, parse_role
from isochrone.errors import Conflict, InvalidInput, NotFound
from isochrone.mirror.identity import CERTIFICATE_DAYS, RENEW_DAYS, certificate_of, make_identity
from isochrone.mirror.peers import IDENTITY_NAME, SITE_NAME, Peers, Role
from isochrone.world import system_world
from isochrone.world.clock import SystemClock
from isochrone.world.documents import FolderDocuments
from tests.mirror.drawer import peer, site

DAY = int(DAY_S) * 10**9


class Clock(SystemClock):
    """A wall clock that is set by hand."""

    now = 1_800_000_000 * 10**9

    def wall_ns(self) -> int:
        return self.now


def test_from_nothing_to_a_peer(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    local = LocalSite(folder, system_world())
    assert local.view().name == ""
    assert not has_certificate(folder)
    local.init("here")
    assert has_certificate(folder)
    assert len(local.view().fingerprint) == 64
    assert LocalSite(folder, system_world()).view() == local.view()
    west = site(tmp_path / "w", "west")
    local.peers.admit(peer(west, address="h:1"))
    [view] = local.view().sites
    assert (view.name, view.connections, view.limit.rate) == ("west", 0, 0)
    assert local.limit("west", "1MiB/s").rate == 1 << 20
    assert local.limit("*", "2MiB/s").rate == 2 << 20
    assert local.peer_view(local.peers.find("west")).limit.rules == "1MiB/s"
    assert [limit.site for limit in local.view().limits] == ["*"]
    assert local.limit("west", "").rules == "2MiB/s"
    assert LocalSite(folder, system_world()).view().limits == local.view().limits
    with pytest.raises(InvalidInput):
        local.limit("west", "fast")
    with pytest.raises(NotFound):
        local.limit("nobody", "1MiB/s")


def test_files_that_make_no_sense(tmp_path: Path) -> None:
    (tmp_path / SITE_NAME).write_text("{")
    with pytest.raises(InvalidInput, match="makes no sense"):
        LocalSite(tmp_path, system_world())
    (tmp_path / SITE_NAME).unlink()
    (tmp_path / SITE_NAME).mkdir()
    with pytest.raises(InvalidInput, match="cannot be read"):
        LocalSite(tmp_path, system_world())


def test_roles() -> None:
    assert parse_role("replicate") is Role.REPLICATE
    with pytest.raises(InvalidInput, match="not a role") as e:
        parse_role("king")
    assert "replicate, takeover" in e.value.hint


def test_it_says_when_a_key_is_due(tmp_path: Path) -> None:
    clock = Clock()
    local = LocalSite(tmp_path, replace(system_world(), clock=clock))
    assert (local.warning(), list(local.samples())) == ("", [])
    local.init("here")
    (sample,) = local.samples()
    assert sample[1:] == ((("site", "here"),), CERTIFICATE_DAYS * DAY_S)
    assert local.view().expires
    clock.now += (CERTIFICATE_DAYS - RENEW_DAYS - 1) * DAY
    assert local.warning() == ""
    clock.now += DAY
    assert "is due in 30 days: isochrone site renew" in local.warning()
    clock.now += RENEW_DAYS * DAY
    assert "the certificate is due: isochrone site renew" in local.warning()
    west = site(tmp_path / "w", "west")
    folder = FolderDocuments(tmp_path / "w")
    folder.write(IDENTITY_NAME, make_identity("west", "w" * 32, clock.now - 1090 * DAY))
    local.peers.admit(peer(Peers(folder), address="h:1"))
    assert local.peers.find("west").certificate != west.certificate
    assert {s[1][0][1] for s in local.samples()} == {"here", "west"}
    local.peers.prepare(clock.now)
    assert local.warning() == "a renewal waits for west: isochrone site renew"
    local.peers.take_next()
    assert (
        "the certificate of west is due in 5 days: isochrone site renew, there" in local.warning()
    )
    local.peers.offered("west", certificate_of(make_identity("west", "w" * 32, clock.now)))
    assert local.warning() == "", "it has told its next one"


async def test_renewing_without_who_cannot_be_told(tmp_path: Path) -> None:
    local = LocalSite(tmp_path, system_world())
    with pytest.raises(Conflict, match="no certificate yet"):
        await local.renew()
    local.init("here")
    before = local.view().fingerprint
    assert (await local.renew()).done, "there is nobody to be told"
    first = local.view().fingerprint
    assert first != before
    local.peers.admit(peer(site(tmp_path / "w", "west")))  # it only ever calls
    waits = await local.renew()
    assert (waits.done, [x.site for x in waits.waiting]) == (False, ["west"])
    assert "no address" in waits.waiting[0].why
    assert local.view().fingerprint == first
    assert local.view().renewal == ["west"]
    done = await local.renew(without=True)
    assert (done.done, done.fingerprint) == (True, waits.fingerprint)
    assert local.view().fingerprint == done.fingerprint


async def test_nobody_is_joined_while_a_key_is_renewed(tmp_path: Path) -> None:
    """The other site would write down a key that is shown no more when it hears the answer."""
    local = LocalSite(tmp_path, system_world())
    local.init("here")
    local.open_enrolment("ab" * 16)
    async with local._renewing:
        joining = asyncio.create_task(local.join("no token", "takeover", ""))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not joining.done()
    with pytest.raises(InvalidInput, match="not a token"):
        await joining
