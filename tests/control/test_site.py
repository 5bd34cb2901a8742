"""A site as the daemon has it: its files, its peers, its limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from isochrone.control.site import LocalSite, has_certificate, parse_role
from isochrone.errors import InvalidInput, NotFound
from isochrone.mirror.peers import SITE_NAME, Role
from isochrone.world import system_world
from tests.mirror.drawer import peer, site


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
