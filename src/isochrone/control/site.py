"""This site, as the daemon composes it: its keys, its peers, and the net that checks them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from isochrone.control import views_site as v
from isochrone.control.times import rfc3339
from isochrone.errors import InvalidInput
from isochrone.mirror.bandwidth import parse_limit
from isochrone.mirror.enrolment import Enrolment
from isochrone.mirror.identity import RENEW_DAYS, due, fingerprint
from isochrone.mirror.peers import ALL_OTHERS, IDENTITY_NAME, Peer, Peers, Role
from isochrone.mirror.renewal import Renewal
from isochrone.mirror.secure import SecuredNet
from isochrone.world import World
from isochrone.world.documents import FolderDocuments

DAY_S: Final = 86400.0
Sample = tuple[str, tuple[tuple[str, str], ...], float]  # as `metrics` has them


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
        self.renewal = Renewal(self.peers, self.net)
        self._renewing = asyncio.Lock()
        self._world = world

    def open_enrolment(self, pool: str) -> None:
        """Once the identity of the pool is known."""
        self.enrolment = Enrolment(self.peers, self.net, self._world, pool)

    def init(self, name: str) -> None:
        self.peers.init(name, self._world.dice.identity(), self._world.clock.wall_ns())

    def invite(self, role: str, seconds: int, address: str) -> v.TokenView:
        token = self.enrolment.invite(parse_role(role), seconds, address)
        return v.TokenView(
            token=token.text(),
            address=token.address,
            role=role,
            expires=rfc3339(token.expires * 10**9),
        )

    async def join(self, token: str, role: str, address: str) -> v.PeerView:
        async with self._renewing:  # else the other side could learn a key that is shown no more
            return await self._join(token, role, address)

    async def _join(self, token: str, role: str, address: str) -> v.PeerView:
        return self.peer_view(await self.enrolment.join(token, parse_role(role), address))

    async def renew(self, *, without: bool = False) -> v.RenewalView:
        """A new key: tell the others, then show it. Asked again, it goes on where it stopped.

        `without` those who cannot be told; they do not know this site any more then.
        """
        async with self._renewing:
            return await self._renew(without=without)

    async def _renew(self, *, without: bool) -> v.RenewalView:
        certificate = self.peers.prepare(self._world.clock.wall_ns())
        failed = await self.renewal.tell(certificate)
        lost = [peer.name for peer in self.peers.untold()]
        done = without or not lost
        if done:
            self.peers.take_next()
        return v.RenewalView(
            done=done,
            fingerprint=fingerprint(certificate),
            expires=_date(due(certificate)),
            waiting=[v.WaitingView(site=name, why=failed.get(name, "")) for name in lost],
        )

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
            expires=_date(due(peers.certificate)) if peers.enrolled else "",
            warning=self.warning(),
            renewal=[peer.name for peer in peers.untold()],
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
            expires=_date(due(peer.certificate)),
            renewing=bool(peer.next),
            joined=rfc3339(peer.joined),
            connections=self.net.connections(peer.name),
            limit=self.limit_view(peer.name),
        )

    def warning(self) -> str:
        """What is to be done about certificates, the most urgent first; empty: nothing."""
        now = self._world.clock.wall_ns()
        if self.peers.next_identity:
            names = ", ".join(peer.name for peer in self.peers.untold()) or "nobody"
            return f"a renewal waits for {names}: isochrone site renew"
        mine = self._days_left(self.peers.certificate, now)
        if mine is not None and mine <= RENEW_DAYS:
            return f"the certificate {_ends(mine)}: isochrone site renew"
        for peer in sorted(self.peers.all, key=lambda p: p.name):
            left = self._days_left(peer.certificate, now)
            if left is not None and left <= RENEW_DAYS and not peer.next:
                return f"the certificate of {peer.name} {_ends(left)}: isochrone site renew, there"
        return ""

    def samples(self) -> Iterator[Sample]:
        """For `/metrics`: seconds until certificates are due; absent: never."""
        now = self._world.clock.wall_ns()
        known = [(peer.name, peer.certificate) for peer in self.peers.all]
        own = [("", self.peers.certificate)] if self.peers.enrolled else []
        for name, certificate in [*own, *known]:
            days = self._days_left(certificate, now)
            if days is not None:
                labels = (("site", name or self.peers.name),)
                yield "isochrone_site_certificate_left_seconds", labels, round(days * DAY_S)

    def _days_left(self, certificate: bytes, now: int) -> float | None:
        end = due(certificate) if certificate else 0
        return (end - now) / 1e9 / DAY_S if end else None

    def limit_view(self, name: str) -> v.LimitView:
        valve = self.net.valve(name)
        return v.LimitView(
            site=name,
            rules=self.peers.limits.get(name, self.peers.limits.get(ALL_OTHERS, "")),
            rate=valve.rate,
            sent=valve.budget.passed,
            waited=round(valve.waited_s, 3),
        )


def _ends(days: float) -> str:
    return f"is due in {days:.0f} days" if days >= 1 else "is due"


def _date(end: int) -> str:
    return rfc3339(end) if end else ""


def parse_role(text: str) -> Role:
    """Raises `InvalidInput`."""
    try:
        return Role(text)
    except ValueError:
        raise InvalidInput(
            f"{text!r} is not a role", hint=f"choose one of: {', '.join(Role)}"
        ) from None
