"""What a primary sends to one secondary that pulls: the log after a cut that it has, or images."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from pyroaring import BitMap

from isochrone.errors import PeerFault, StaleEpoch
from isochrone.mirror import cascade, cuts
from isochrone.mirror.bandwidth import Urgency
from isochrone.mirror.conversation import HEARTBEAT_SECONDS, Conversation
from isochrone.mirror.groups import find_group
from isochrone.mirror.inventory import CAPABILITY as LISTS
from isochrone.mirror.inventory import messages as inventory
from isochrone.mirror.inventory import needed
from isochrone.mirror.messages import (
    Begin,
    Cut,
    Digests,
    Heartbeat,
    Hello,
    Inventory,
    Pull,
    RemoteVolume,
)
from isochrone.mirror.sending import Sender
from isochrone.mirror.shipment import CAPABILITY as IMAGES
from isochrone.mirror.shipment import COPIES_MAX, Shipment, starting_at
from isochrone.store.catalogue import Group, Mark
from isochrone.store.changes import log_serves
from isochrone.store.pool import Pool
from isochrone.store.records import Position
from isochrone.types import BLOCK

log = structlog.get_logger()


def volumes_of(pool: Pool, group: Group) -> tuple[RemoteVolume, ...]:
    """The volumes of a group, as messages tell them."""
    found = (pool.state.volumes[id] for id in group.volumes)
    return tuple(RemoteVolume(v.id, v.name, v.size) for v in found)


class Serving:
    """Answers the PULLs of one connection, one after the other."""

    def __init__(
        self,
        pool: Pool,
        talk: Conversation,
        group: Group,
        hello: Hello,
        interval: Callable[[], float],
        relay: cascade.Relay,
        progress_bytes: int = 0,
    ) -> None:
        self._pool = pool
        self._talk = talk
        self._group = group
        self._peer = hello.pool
        self._interval = interval
        self._relay = relay
        self._progress_bytes = progress_bytes  # between words of how far images are; 0: the usual
        self._pull: Pull | None = None
        self.acked = 0
        self.left = False  # the secondary has taken its leave
        self.out = Sender(pool, talk, self.heartbeat)
        self.shipment: Shipment | None = None  # what is sent now, if not from the log
        self.copies_left_out = 0  # by a resend, because there were too many
        self.diverged: dict[int, BitMap] = {}  # tracks that it changed itself since its cut
        self.token = 0  # newest SYNC; a cut placed or found unnecessary from then on covers it
        self.listed = False  # an inventory was sent
        self._token_done = 0
        self._has: Mark | None = None  # what is there once all that was sent has been taken
        self._cut_here = False  # a cut was placed in this connection
        self._offered = hello.partial  # what the secondary has a part of
        self._told = IMAGES in hello.capabilities  # it understands what is said of images
        self._lists = LISTS in hello.capabilities  # it understands inventories
        self._last_cut_at = -1e9

    # -- what the other side says

    def pulled(self, pull: Pull) -> None:
        """Raises `PeerFault` for a PULL that no sane secondary sends."""
        if self._pull is not None:
            raise PeerFault("a PULL came before the last one was answered")
        if pull.cut > self.live_group().cut:
            raise PeerFault(f"a PULL says that cut {pull.cut} is there; it is not here")
        self._pull, self.out.credit = pull, pull.credit

    def digests(self, answer: Digests) -> None:
        """Raises `PeerFault` for an answer that was not asked for."""
        if self.shipment is None:
            raise PeerFault("digests came that nobody asked for")
        self.shipment.answered(answer)

    def _note_left_out(self, count: int) -> None:
        if count:
            self.copies_left_out = count
            log.warning("a resend leaves the oldest copies out: the secondary will not have them",
                        group=self._group.name, peer=self._peer, copies=count,
                        sent=COPIES_MAX)  # fmt: skip

    # -- the group

    def live_group(self) -> Group:
        """The group, still served here. Raises `StaleEpoch` or `NotFound`."""
        group = find_group(self._pool, self._group.name)
        if group is not self._group:
            raise StaleEpoch(f"group {group.name} is no longer served here")
        self._relay.check()
        return group

    @property
    def _relays(self) -> bool:
        """Whether the group is a secondary here, which is followed in its turn."""
        return self._relay.relays

    def leads_on(self, cut: int) -> bool:
        """Whether something leads on from a cut; else everything must be copied."""
        base = self._mark(self._group, cut)
        by_log = base is not None and self._by_log(self._group, base)
        return by_log or bool(cut and starting_at(self._pool, self._group, cut, None))

    # -- serving

    async def run(self) -> None:
        while True:
            while self._pull is None:
                await self.out.wait(HEARTBEAT_SECONDS)
            pull = self._pull
            group = self.live_group()
            self.acked = max(self.acked, pull.cut)
            base = self._has = self._mark(group, pull.cut)
            if base is not None:
                await self._until_due(group, base)
                group = self.live_group()
            if base is not None and self._by_log(group, base):
                await self._send_group(group, base)
            else:
                await self._send_images(group, pull.cut, seeded=pull.seeded)

    def _mark(self, group: Group, cut: int) -> Mark | None:
        """Where a cut that the secondary has lies in the log; None if it must copy everything.

        The group remembers few cuts, and another secondary may have caused many meanwhile.
        """
        if self._has is not None and self._has.cut == cut:
            return self._has
        return group.mark(cut) if cut else None

    def _by_log(self, group: Group, base: Mark) -> bool:
        """Whether the log leads on from a cut; if not, images of what was changed may."""
        session = group.sessions.get(self._peer)
        if session is None or self.diverged or self.out.log_unreadable:
            return False
        return log_serves(group, session, base)

    async def _until_due(self, group: Group, base: Mark) -> None:
        """Wait until there is something to cut and the interval has passed, or a SYNC came."""
        clock = self._pool.world.clock
        while self._relays and not self.left and group.cut == base.cut:
            await self.heartbeat()
            await self.out.wait(min(HEARTBEAT_SECONDS, self._interval()))
            self.live_group()
        while not self.left and not self._relays:
            token = self.token
            due = self._last_cut_at + self._interval()
            # The deletion of a copy is remembered by the log alone once the process was restarted,
            # so the first cut of a connection is placed in any case.
            # Who takes over must have the newest number, too: no other site has a later cut then.
            heir_behind = group.handover == self._peer and base.cut != group.cut
            if not self._cut_here or heir_behind or cuts.changed_since(self._pool, group, base):
                if token > self._token_done or clock.monotonic() >= due:
                    return
                await self.out.wait(min(HEARTBEAT_SECONDS, due - clock.monotonic()))
            else:
                await self._tell_clean(group, base, token)
                await self.out.wait(min(HEARTBEAT_SECONDS, self._interval()))
            self.live_group()

    async def _tell_clean(self, group: Group, base: Mark, token: int) -> None:
        """Nothing happened since the cut: it is as good as one placed now."""
        stamp = self._pool.world.clock.wall_ns()
        self._token_done = token
        await self._talk.send(Heartbeat(stamp=stamp, clean=base.cut, token=token))

    async def heartbeat(self) -> None:
        """Say that we are alive, and what a failover would lose by now."""
        if self._relays:
            level = self._has is not None and self._has.cut == self._relay.cut
            self.out.spoke_at = self._pool.world.clock.monotonic()
            await self._talk.send(await self._relay.news(self.token, level=level))
            return
        behind = -1
        if self._has is not None:
            changed = self._pool.state.blocks_changed(self._group)
            behind = (changed - self._has.blocks_changed) * BLOCK
        stamp = self._pool.world.clock.wall_ns()
        self.out.spoke_at = self._pool.world.clock.monotonic()
        await self._talk.send(Heartbeat(stamp=stamp, behind_bytes=behind, token=self._token_done))

    async def _send_group(self, group: Group, base: Mark) -> None:
        """Place a cut, make it durable, and send what the log has between it and the base."""
        token = self.token
        mark = cuts.place(self._pool, group, {self._peer: self.acked})
        listing = self._inventory(group, whole=False)
        volumes = volumes_of(self._pool, group)
        self._last_cut_at = self._pool.world.clock.monotonic()
        await self.out.flush()
        if not self._by_log(group, base):
            return  # given up meanwhile, with what became of volumes at their places: images then
        await self._talk.send(Begin(base=base.cut, cut=mark.cut, volumes=volumes))
        blocks = await self.out.window(
            group, base, mark, tuple(v.id for v in volumes), lambda: self._by_log(group, base)
        )
        if blocks is None:
            return  # by images then; what was sent of this is dropped there
        await self._end_group(mark, blocks, token, listing)

    async def _send_images(self, group: Group, cut: int, *, seeded: bool) -> None:
        """Place a cut and send images of it: of what was changed since `cut`, or everything."""
        pool, token = self._pool, self.token
        offered, self._offered = self._offered, None
        start = starting_at(pool, group, cut, offered)
        if start is None:
            start, cut = Position(), 0
        acked = {self._peer: self.acked}
        begun = (start.floor, start.begun)
        if self._relays:
            mark, token = self._relay.place(self._peer, self.acked, begun), self._relay.covered
        else:
            mark = cuts.place(pool, group, acked, whole=self._peer, begun=begun)
        if any(at and group.mark(at) is None for at in begun):
            # As many followers as there may be need all the marks there may be, and this one went.
            start, cut = Position(), 0
        listing = self._inventory(group, whole=True)
        self._last_cut_at = pool.world.clock.monotonic()
        # In the same step, or what is frozen would not be what the cut stands for.
        ship = Shipment(
            pool, group, mark, start,
            base=cut, seeded=seeded and not cut, told=self._told, diverged=self.diverged,
            progress_bytes=self._progress_bytes,
        )  # fmt: skip
        self.shipment, volumes = ship, volumes_of(pool, group)
        self._note_left_out(ship.copies_left_out)
        try:
            await self.out.flush()
            await self._talk.send(
                Begin(
                    base=cut, cut=mark.cut, volumes=volumes, images=True, resumed=ship.resumed,
                    todo=ship.todo,
                )
            )  # fmt: skip
            self._talk.urgency = Urgency.COPY
            await ship.send(self.out)
        finally:
            self._talk.urgency = Urgency.CUT
            ship.close()
            self.shipment = None
        self.diverged = {}
        await self._end_group(mark, ship.sent, token, listing)

    def _inventory(self, group: Group, *, whole: bool) -> list[Inventory]:
        """What the group ends with; made in the step that places the cut."""
        if not self._lists or not (whole or needed(group.sessions.get(self._peer))):
            return []
        return inventory(self._pool.state, group, whole=whole)

    async def _end_group(
        self, mark: Mark, blocks: int, token: int, listing: list[Inventory]
    ) -> None:
        for part in listing:
            await self._talk.send(part)
        self.listed = self.listed or bool(listing)
        self._pull, self._has, self._cut_here = None, mark, True
        self._token_done = token
        await self._talk.send(Cut(cut=mark.cut, stamp=mark.stamp, blocks=blocks, token=token))
        await self.heartbeat()
