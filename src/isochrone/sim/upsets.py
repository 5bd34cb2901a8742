"""What happens to sites whose roles change: faults, commands, and crashes at chosen records."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final

from isochrone.dr.failback import rejoin
from isochrone.dr.failover import promote
from isochrone.dr.switch import switch
from isochrone.errors import Conflict, IsochroneError
from isochrone.mirror.limits import POLICIES
from isochrone.mirror.roles import Role
from isochrone.sim.checkers import Violation
from isochrone.sim.fabric import SimFabric
from isochrone.sim.loop import Crashed
from isochrone.sim.member import AMBUSHES, GROUP, STORE_LOST, Ambush, Member
from isochrone.sim.witness import Witness
from isochrone.store import records as r
from isochrone.types import KIB, MIB

SWITCH_S: Final = 30.0
LIMITS_BYTES: Final = (0, 64 * KIB, 1 * MIB)  # tiny, so that they strike
LIMITS_S: Final = (0.0, 0.5, 3.0)
PAUSES_S: Final = (0.2, 3.0, 20.0)  # the last is longer than the silence a link is given

Event = Callable[[], Awaitable[None]]


class Upsets:
    """Each event is a coroutine that ends when it is over."""

    def __init__(
        self,
        members: dict[str, Member],
        fabric: SimFabric,
        witness: Witness,
        random: Random,
        say: Callable[[str], None],
    ) -> None:
        self._members = members
        self._fabric = fabric
        self._witness = witness
        self._random = random
        self._say = say
        self._returning: set[str] = set()  # sites that are being brought back
        self.parked: set[tuple[str, str]] = set()  # site, copy: nobody here lets go of them
        self.counts: Counter[str] = Counter()

    def draw(self) -> Event:
        choices: list[tuple[Event, int]] = [
            (self.crash, 3), (self.ambush, 5), (self.pause, 2), (self.cut, 2), (self.flap, 2),
            (self.suspend, 2), (self.tighten, 3), (self.resume, 1), (self.switch, 3),
            (self.promote, 2), (self.rejoin, 4), (self.repoint, 1), (self.nothing, 1),
        ]  # fmt: skip
        events, weights = zip(*choices, strict=True)
        return self._random.choices(events, weights)[0]  # type: ignore[no-any-return]

    async def strike(self, events: int) -> None:
        """So many events, which overlap in time."""
        await asyncio.gather(*(self._one(self.draw()) for _ in range(events)))

    async def _one(self, event: Event) -> None:
        await self._pass(self._random.choice((0.0, 0.01, 0.3, 2.0)))
        self._say(f"event: {getattr(event, '__name__', '')}")
        try:
            await event()
        except Crashed:
            self._say("it died with its site")
        except IsochroneError as e:
            self._say(f"it was refused: {e.message}")

    async def _pass(self, seconds: float) -> None:
        await next(iter(self._members.values())).site.clock.sleep(seconds)

    async def nothing(self) -> None:
        """Time passes, and cuts with it."""

    def _some(self, *roles: Role) -> Member:
        """A site that can be asked, in one of these roles. Raises `Conflict`."""
        found = [
            member
            for member in self._members.values()
            if (role := member.role) is not None and (not roles or role in roles)
        ]
        if not found:
            raise Conflict("no site is in that role")
        return self._random.choice(found)

    def newest(self) -> Member | None:
        """The primary of the newest epoch, if it is up."""
        found = [
            (group.epoch, member.name)
            for member in self._members.values()
            if (group := member.group) is not None and member.role is Role.PRIMARY
        ]
        return self._members[max(found)[1]] if found else None

    # -- faults

    async def crash(self) -> None:
        up = [member for member in self._members.values() if member.up]
        if not up:
            return
        member = self._random.choice(up)
        member.crash(power=self._random.random() < 0.7)
        if self._random.random() < STORE_LOST:
            member.lose_store()

    async def ambush(self) -> None:
        """A site will crash right after some record of its log."""
        member = self._some()
        kind, left = self._random.choice(AMBUSHES), self._random.choice((1, 1, 2, 5))
        member.ambush = Ambush(kind, left, self._random.random() < 0.7)

    async def pause(self) -> None:
        self.counts["pauses"] += 1
        await self._some().pause(self._random.choice(PAUSES_S))

    def _two(self) -> tuple[str, str]:
        one, other = self._random.sample(sorted(self._members), 2)
        return one, other

    async def cut(self) -> None:
        self.counts["cuts"] += 1
        if self._random.random() < 0.7:
            self._fabric.cut(*self._two(), one_way=self._random.random() < 0.3)
        else:
            self._fabric.stall(*self._two(), one_way=self._random.random() < 0.3)

    async def flap(self) -> None:
        """One direction of a link is gone, again and again, for moments."""
        one, other = self._two()
        self.counts["cuts"] += 1
        for _ in range(self._random.randint(1, 4)):
            self._fabric.cut(one, other, one_way=True)
            await self._pass(self._random.uniform(0, 1.0))
            self._fabric.heal(one, other)
            await self._pass(self._random.uniform(0, 1.0))

    # -- commands

    async def suspend(self) -> None:
        member = self._some()
        group = member.group
        assert group is not None
        for peer in sorted(group.sessions):
            self.counts["suspensions"] += 1
            member.mirrors.suspend(GROUP, peer)
        await member.site.spawn(member.pool.flush())

    async def tighten(self) -> None:
        """Side files of a size that is soon reached."""
        member = self._some(Role.PRIMARY)
        group = member.group
        assert group is not None
        for peer in sorted(group.sessions):
            self._set(
                member, peer, self._random.choice(POLICIES), self._random.choice(LIMITS_BYTES),
                self._random.choice(LIMITS_S), self._random.choice(("auto", "auto", "manual")),
            )  # fmt: skip
        await member.site.spawn(member.pool.flush())

    @staticmethod
    def _set(
        member: Member, peer: str, policy: str, bytes: int, seconds: float, resync: str
    ) -> None:
        # Not through the front: what a person may ask for is larger than these volumes.
        member.pool.record(
            r.SessionSet(
                group=GROUP, peer=peer, policy=policy, limit_bytes=bytes, limit_seconds=seconds,
                resync=resync,
            )
        )  # fmt: skip

    async def resume(self) -> None:
        """Everybody is served again."""
        for member in self._members.values():
            group = member.group
            for peer in sorted(group.sessions) if group is not None else ():
                member.mirrors.resume(GROUP, peer)

    async def relax(self) -> None:
        """No limits any more, and everybody is served."""
        for member in self._members.values():
            group = member.group
            for peer in sorted(group.sessions) if group is not None else ():
                self._set(member, peer, "suspend", 0, 0.0, "auto")
        await self.resume()

    async def switch(self) -> None:
        member = self._some(Role.SECONDARY)
        report = await member.site.spawn(
            switch(
                *(member.pool, member.mirrors, GROUP),
                address=member.address, force=True, timeout=SWITCH_S,
            )
        )  # fmt: skip
        self.counts["switches"] += 1
        self._say(f"{member.name} took over as planned: {report}")

    async def promote(self) -> None:
        member = self._some(Role.SECONDARY)
        report = await member.site.spawn(promote(member.pool, member.mirrors, GROUP, force=True))
        self.counts["promotes"] += 1
        self._say(f"{member.name} was promoted: {report}")
        if not self._witness.placed(report.cut):
            raise Violation(f"(k) {member.name} was promoted at a cut that nobody placed")

    async def rejoin(self) -> None:
        """All follow the newest primary."""
        newest = self.newest()
        for member in self._members.values():
            if member.group is not None and newest is not None and member is not newest:
                await self.bring_back(member, newest)

    async def repoint(self) -> None:
        """A secondary follows another secondary, or the primary again."""
        member, other = self._some(Role.SECONDARY), self._some(Role.SECONDARY, Role.PRIMARY)
        if member is not other:
            await self.bring_back(member, other)

    async def bring_back(self, member: Member, newest: Member) -> None:
        """Rejoin, and see that nothing was lost by it."""
        if member.name in self._returning:
            return
        self._returning.add(member.name)
        try:
            report = await member.site.spawn(
                rejoin(member.pool, member.mirrors, GROUP, source=newest.address, force=True)
            )
        finally:
            self._returning.discard(member.name)
        self.counts["rejoins"] += 1
        self._say(f"{member.name} follows {newest.name}: {report}")
        if not report.orphans:
            return
        self.parked.add((member.name, report.orphans))
        if not member.pool.state.copies[report.orphans].pinned:
            raise Violation(f"(l) {report.orphans} of {member.name} can be deleted by anybody")
