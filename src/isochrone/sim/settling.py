"""The end of a run of sites whose roles change: all follow the newest primary, and are equal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from isochrone.dr.failover import promote
from isochrone.errors import IsochroneError
from isochrone.mirror.roles import Role, role_of
from isochrone.sim.checkers import Violation
from isochrone.sim.churn import requests_kept
from isochrone.sim.member import GROUP, Member
from isochrone.sim.upsets import Upsets
from isochrone.sim.witness import Witness, branch, copies_of, shown
from isochrone.store.apply_matched import finished
from isochrone.store.check import check_pool

CONVERGE_S: Final = 600.0  # virtual; far above any retry delay
AGAIN_S: Final = 5.0
REQUESTS_S: Final = 180.0  # longer than any deadline of a request, and the answers to it


class Settling:
    """When the faults are over. `follow` begins a mirror."""

    def __init__(
        self,
        members: dict[str, Member],
        upsets: Upsets,
        witness: Witness,
        follow: Callable[[Member, str], Awaitable[None]],
        say: Callable[[str], None],
    ) -> None:
        self._members = members
        self._upsets = upsets
        self._witness = witness
        self._follow = follow
        self._say = say
        self._clock = next(iter(members.values())).site.clock

    def _others(self, one: Member) -> list[Member]:
        return [member for member in self._members.values() if member is not one]

    # -- getting there

    async def gather(self) -> Member:
        """All follow one primary, which is told."""
        newest = await self._settled_primary()
        self._say(f"calm: {newest.name} is the primary")
        for member in self._others(newest):
            await self._make_follow(member, newest)
        await self._upsets.relax()
        return newest

    async def caught_up(self, newest: Member) -> None:
        """Everybody has all that the primary has, and no request is open."""
        for member in self._others(newest):
            await member.site.spawn(member.mirrors.wait(GROUP, timeout=CONVERGE_S))
        end = self._clock.monotonic() + REQUESTS_S
        while any(not finished(x) for x in newest.pool.state.groups[GROUP].requests):
            if self._clock.monotonic() > end:
                raise Violation(f"(n) a request is never finished: {self._open(newest)}")
            await self._clock.sleep(1.0)
        for member in self._others(newest):
            await member.site.spawn(member.mirrors.wait(GROUP, timeout=CONVERGE_S))

    @staticmethod
    def _open(newest: Member) -> list[Any]:
        requests = newest.pool.state.groups[GROUP].requests
        return [request for request in requests if not finished(request)]

    async def _settled_primary(self) -> Member:
        """The primary of the newest epoch; if a switch was broken off, it is gone on with.

        So it is if somebody yielded to an epoch that its heir lost in a crash, while a third site
        was promoted to an older one: who has yielded takes it back.
        """
        end = self._clock.monotonic() + CONVERGE_S
        while True:
            newest = self._upsets.newest()
            heirs = [
                member
                for member in self._members.values()
                if (group := member.group) is not None
                and (newest is None or group.epoch > self._rank(newest)[1])
            ]
            if newest is not None and not heirs:
                return newest
            if self._clock.monotonic() > end:
                raise Violation("(m) no site is primary, and none can be made so")
            member = max(heirs, key=self._rank)
            try:
                await member.site.spawn(promote(member.pool, member.mirrors, GROUP, force=True))
            except IsochroneError as e:
                self._say(f"{member.name} cannot be promoted: {e.message}")
            await self._clock.sleep(AGAIN_S)

    @staticmethod
    def _rank(member: Member) -> tuple[int, int, int]:
        group = member.group
        assert group is not None
        return (int(role_of(group) is Role.SECONDARY), group.epoch, group.cut)

    @staticmethod
    def _follows(member: Member, newest: Member) -> bool:
        group, there = member.group, newest.group
        assert group is not None
        assert there is not None
        same = branch(group) == branch(there)
        return role_of(group) is Role.SECONDARY and group.source == newest.address and same

    async def _make_follow(self, member: Member, newest: Member) -> None:
        end = self._clock.monotonic() + CONVERGE_S
        while True:
            group = member.group
            try:
                if group is None:
                    await self._follow(member, newest.name)
                elif not group.lineage:  # nothing has come yet: there is nothing to bring back
                    await member.site.spawn(member.mirrors.remove(GROUP))
                    await self._follow(member, newest.name)
                elif not self._follows(member, newest):
                    await self._upsets.bring_back(member, newest)
                return
            except IsochroneError as e:
                self._say(f"{member.name} cannot follow {newest.name} yet: {e.message}")
                if self._clock.monotonic() > end:
                    raise Violation(
                        f"(m) {member.name} cannot be made to follow {newest.name}: {e.message}"
                    ) from e
            await self._clock.sleep(AGAIN_S)

    # -- checking

    def check(self, newest: Member) -> None:
        """All are equal. Raises `Violation`."""
        there = newest.pool.state.groups[GROUP]
        expected = shown(newest.pool, there)
        for member in self._others(newest):
            found = shown(member.pool, member.pool.state.groups[GROUP])
            differ = [
                name
                for name, data in expected.items()
                if ("@" not in name or name in found) and found.get(name) != data
            ]
            if differ:
                raise Violation(f"(m) {differ} of {member.name} are not those of {newest.name}")
            self._relations_equal(newest, member)
            self._copies_equal(newest, member)
            self._witness.check_copies(member.name, member.pool, member.pool.state.groups[GROUP])
        for site, copy in sorted(self._upsets.parked):
            if copy not in self._members[site].pool.state.copies:
                raise Violation(f"(l) {copy} of {site} is gone, and nobody let go of it")
        by_pool = {member.pool.identity: member for member in self._others(newest)}
        requests_kept(newest, by_pool, self._witness)
        for member in self._members.values():
            check_pool(member.pool)
        self._say("all are equal")

    def _copies_equal(self, newest: Member, member: Member) -> None:
        """What the primary deleted is gone; what it took since it is one, and has, is there."""
        there, group = newest.pool.state.groups[GROUP], member.pool.state.groups[GROUP]
        have = {c.origin or c.name for c in copies_of(newest.pool, there)}
        come = {c.origin or c.name for c in copies_of(member.pool, group)}
        if come - have:
            raise Violation(f"(m) {member.name} still has the copies {sorted(come - have)}")
        since = {name for name in have if self._witness.born.get(name) == branch(there)}
        lost = since - come - self._witness.excused.get(member.name, set())
        if lost:
            raise Violation(f"(m) {member.name} lacks the copies {sorted(lost)}")

    @staticmethod
    def _relations_equal(one: Member, other: Member) -> None:
        def named(member: Member) -> set[tuple[Any, ...]]:
            state = member.pool.state
            group = state.groups[GROUP]
            return {
                (state.volumes[x.source].name, state.volumes[x.target].name, tuple(x.extents))
                for x in state.relations.values()
                if x.source in group.volumes and x.target in group.volumes
            }

        if named(one) != named(other):
            raise Violation(
                f"(m) {one.name} and {other.name} do not have the same relations:"
                f" {named(one) ^ named(other)}"
            )
