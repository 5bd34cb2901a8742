"""Documents in a folder of their own, and sites that know each other."""

from __future__ import annotations

from pathlib import Path

from isochrone.mirror.peers import Peer, Peers, Role
from isochrone.world.documents import FolderDocuments


def site(folder: Path, name: str) -> Peers:
    """A site with a certificate."""
    folder.mkdir(exist_ok=True)
    peers = Peers(FolderDocuments(folder))
    peers.init(name, name[0] * 32)
    return peers


def peer(
    of: Peers, *, pool: str = "", address: str = "", role: Role = Role.TAKEOVER, name: str = ""
) -> Peer:
    """A site as another one knows it."""
    return Peer(
        name=name or of.name, id=of.id, pool=pool or of.name, address=address, role=role,
        certificate=of.certificate, joined=1,
    )  # fmt: skip
