"""Who is known here is on disk before it counts, and every name and certificate is there once."""

from __future__ import annotations

from pathlib import Path

import pytest

from isochrone.errors import Conflict, InvalidInput, NotAllowed, NotFound
from isochrone.mirror import peers as module
from isochrone.mirror.peers import (
    INVITATIONS_MAX,
    MAY,
    SITE_NAME,
    Act,
    Invitation,
    Peers,
    Role,
    Warrant,
)
from isochrone.world.documents import FolderDocuments
from tests.mirror.drawer import peer, site


def again(folder: Path) -> Peers:
    return Peers(FolderDocuments(folder))


def test_nothing_yet(tmp_path: Path) -> None:
    fresh = again(tmp_path)
    assert not fresh.enrolled
    assert fresh.all == ()
    assert list(tmp_path.iterdir()) == []


def test_a_site_has_one_name(tmp_path: Path) -> None:
    east = site(tmp_path, "east")
    assert again(tmp_path).name == "east"
    assert again(tmp_path).certificate == east.certificate
    with pytest.raises(Conflict, match="already"):
        east.init("west", "b" * 32)
    for name in ("a b", "", "n" * 65):
        with pytest.raises(InvalidInput):
            again(tmp_path / "..").init(name, "")


def test_admitted_and_revoked(tmp_path: Path) -> None:
    east, west, other = (site(tmp_path / name, name) for name in ("east", "west", "other"))
    told: list[int] = []
    east.on_change.append(lambda: told.append(len(east.all)))
    east.admit(peer(west))
    east.admit(peer(west, address="h:1"))  # again: the newer counts
    assert [p.address for p in again(tmp_path / "east").all] == ["h:1"]
    with pytest.raises(Conflict, match="already"):
        east.admit(peer(other, name="west"))
    with pytest.raises(Conflict, match="already"):
        east.admit(peer(other, name="east"))
    assert east.by_certificate(other.certificate) is None
    east.limit("west", "1MiB/s")
    east.revoke("west")
    assert again(tmp_path / "east").all == ()
    assert east.limits == {}
    assert told == [1, 1, 1, 0]
    with pytest.raises(NotFound, match="no site 'west'"):
        east.revoke("west")


def test_what_the_disk_refuses_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    east, west = site(tmp_path / "e", "east"), site(tmp_path / "w", "west")
    invitation = Invitation(id="i", verifier=b"v", role=Role.TAKEOVER, expires=10)
    east.invite(invitation, 0)

    def fails(self: object, name: str, content: bytes) -> None:
        raise OSError(28, "full")

    monkeypatch.setattr(FolderDocuments, "write", fails)
    with pytest.raises(OSError, match="full"):
        east.admit_invited(peer(west), invitation)
    assert east.all == ()
    found = east.invitation("i")
    assert found is not None
    assert not found.used_by


def test_a_revoked_site_cannot_use_its_token_again(tmp_path: Path) -> None:
    east, west = site(tmp_path / "e", "east"), site(tmp_path / "w", "west")
    invitation = Invitation(id="i", verifier=b"v", role=Role.TAKEOVER, expires=10)
    east.invite(invitation, 0)
    east.admit_invited(peer(west), invitation)
    assert east.invitation("i") is not None
    east.revoke("west")
    assert east.invitation("i") is None


def test_a_new_invitation_replaces_the_role_for_good(tmp_path: Path) -> None:
    """The older token would give it the older role again: it may repeat what it said."""
    east, west = site(tmp_path / "e", "east"), site(tmp_path / "w", "west")
    older = Invitation(id="older", verifier=b"v", role=Role.TAKEOVER, expires=10)
    newer = Invitation(id="newer", verifier=b"w", role=Role.REPLICATE, expires=10)
    for invitation in (older, newer):
        east.invite(invitation, 0)
        east.admit_invited(peer(west, role=invitation.role), invitation)
    assert [i.id for i in again(tmp_path / "e").invitations(0)] == ["newer"]
    assert east.find("west").role is Role.REPLICATE


def test_nobody_is_enrolled_as_the_pool_of_another(tmp_path: Path) -> None:
    """What a site may do to a group goes by its pool."""
    east, west, other = (site(tmp_path / name, name) for name in ("east", "west", "other"))
    east.admit(peer(west, pool="p"))
    with pytest.raises(Conflict, match="pool of site 'west'"):
        east.admit(peer(other, pool="p"))
    east.admit(peer(west, pool="p", address="h:1"))
    east.revoke("west")
    east.admit(peer(other, pool="p"))


def test_invitations_are_few_and_run_out(tmp_path: Path) -> None:
    east = site(tmp_path, "east")
    for n in range(INVITATIONS_MAX):
        east.invite(Invitation(id=str(n), verifier=b"", role=Role.REPLICATE, expires=10), 0)
    late = Invitation(id="late", verifier=b"", role=Role.REPLICATE, expires=30)
    with pytest.raises(Conflict, match="16 invitations are open"):
        east.invite(late, 9)
    east.invite(late, 10)
    assert [i.id for i in again(tmp_path).invitations(10)] == ["late"]


def test_too_many_sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PEERS_MAX", 1)
    east, west, other = (site(tmp_path / name, name) for name in ("east", "west", "other"))
    east.admit(peer(west))
    with pytest.raises(Conflict, match="revoke one"):
        east.admit(peer(other))


@pytest.mark.parametrize("text", [b"", b"[]", b'{"version": 2}', b'{"peers": [{"name": 1}]}'])
def test_a_file_that_makes_no_sense(tmp_path: Path, text: bytes) -> None:
    (tmp_path / SITE_NAME).write_bytes(text)
    with pytest.raises(InvalidInput, match=r"site\.json"):
        again(tmp_path)


def test_roles(tmp_path: Path) -> None:
    east = site(tmp_path, "east")
    assert set(MAY) == set(Role)
    Warrant(here="x", peer=peer(east, role=Role.TAKEOVER)).check(Act.FENCE)
    follower = Warrant(here="x", peer=peer(east, role=Role.REPLICATE))
    follower.check(Act.FOLLOW)
    with pytest.raises(NotAllowed, match="role replicate: it may not take a group over"):
        follower.check(Act.FENCE)


def test_a_site_that_is_made_anew_has_no_key_that_is_to_come(tmp_path: Path) -> None:
    """After a theft: the key that was to come may be known, too, and is of the old site."""
    east = site(tmp_path, "east")
    east.prepare(5)
    (tmp_path / "site.pem").unlink()
    anew = again(tmp_path)
    anew.init("east", "f" * 32)
    assert anew.next_identity == again(tmp_path).next_identity == b""
    anew.prepare(6)
    anew.take_next()
    assert anew.id == "f" * 32
