"""This site, as the daemon composes it: its keys, its peers, and the net that checks them."""

from __future__ import annotations

from pathlib import Path

from isochrone.control import views_site as v
from isochrone.control.times import rfc3339
from isochrone.errors import InvalidInput
from isochrone.mirror.bandwidth import parse_limit
from isochrone.mirror.enrolment import Enrolment
from isochrone.mirror.identity import fingerprint
from isochrone.mirror.peers import ALL_OTHERS, IDENTITY_NAME, Peer, Peers, Role
from isochrone.mirror.secure import SecuredNet
from isochrone.world import World
from isochrone.world.documents import FolderDocuments


def has_certificate(directory: Path) -> bool:
    """Whether the ports of this controller will speak TLS."""
    return (directory / IDENTITY_NAME).is_file()


class LocalSite:
    """What `isochrone site` shows and changes."""

    def __init__(self, directory: Path, world: World, *, insecure: bool = False) -> None:
        """Raises `InvalidInput` for files that make no sense."""
        try:
            self.peers = Peers(FolderDocuments(directory))
        except OSError as e:
            raise InvalidInput(f"the site's files in {directory} cannot be read: {e}") from e
        self.net = SecuredNet(world.net, self.peers, world.clock, insecure=insecure)
        self._world = world

    def open_enrolment(self, pool: str) -> None:
        """Once the identity of the pool is known."""
        self.enrolment = Enrolment(self.peers, self.net, self._world, pool)

    def init(self, name: str) -> None:
        self.peers.init(name, self._world.dice.identity())

    def invite(self, role: str, seconds: int, address: str) -> v.TokenView:
        token = self.enrolment.invite(parse_role(role), seconds, address)
        return v.TokenView(
            token=token.text(),
            address=token.address,
            role=role,
            expires=rfc3339(token.expires * 10**9),
        )

    async def join(self, token: str, role: str, address: str) -> v.PeerView:
        return self.peer_view(await self.enrolment.join(token, parse_role(role), address))

    def limit(self, name: str, rules: str) -> v.LimitView:
        """Raises `InvalidInput` or `NotFound`."""
        if rules:
            parse_limit(rules)
        self.peers.limit(name, rules)
        return self.limit_view(name)

    # -- telling

    def view(self) -> v.IdentityView:
        peers = self.peers
        others = [name for name in (ALL_OTHERS,) if peers.limits.get(name)]
        return v.IdentityView(
            name=peers.name,
            id=peers.id,
            fingerprint=fingerprint(peers.certificate) if peers.enrolled else "",
            addresses=list(self.net.addresses),
            sites=self.peer_views(),
            invitations=[
                v.InvitationView(id=i.id, role=i.role, expires=rfc3339(i.expires))
                for i in peers.invitations(self._world.clock.wall_ns())
                if not i.used_by
            ],
            limits=[self.limit_view(name) for name in others],
        )

    def peer_views(self) -> list[v.PeerView]:
        return [self.peer_view(peer) for peer in sorted(self.peers.all, key=lambda p: p.name)]

    def peer_view(self, peer: Peer) -> v.PeerView:
        return v.PeerView(
            name=peer.name,
            id=peer.id,
            fingerprint=peer.fingerprint,
            role=peer.role,
            address=peer.address,
            pool=peer.pool,
            joined=rfc3339(peer.joined),
            connections=self.net.connections(peer.name),
            limit=self.limit_view(peer.name),
        )

    def limit_view(self, name: str) -> v.LimitView:
        valve = self.net.valve(name)
        return v.LimitView(
            site=name,
            rules=self.peers.limits.get(name, self.peers.limits.get(ALL_OTHERS, "")),
            rate=valve.rate,
            sent=valve.budget.passed,
            waited=round(valve.waited_s, 3),
        )


def parse_role(text: str) -> Role:
    """Raises `InvalidInput`."""
    try:
        return Role(text)
    except ValueError:
        raise InvalidInput(
            f"{text!r} is not a role", hint=f"choose one of: {', '.join(Role)}"
        ) from None
