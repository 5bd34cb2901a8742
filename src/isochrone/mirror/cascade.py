"""A secondary that is followed: it passes on what it has, under the numbers of its primary.

Cuts, lineage and epoch are those of the primary, so who follows a secondary can follow the primary
later, or any other site that has the cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from isochrone.errors import Conflict, StaleEpoch, Unavailable
from isochrone.mirror.conversation import Conversation
from isochrone.mirror.messages import CASCADE_SITES_MAX, Fence, Fenced, Relayed
from isochrone.mirror.roles import Role, role_of
from isochrone.store import records as r
from isochrone.store.catalogue import Group, Mark
from isochrone.store.pool import Pool

PASS_ON_SECONDS_MAX: Final = 5.0  # half of what the asker waits, for each site on the way


class Upstream(Protocol):
    """What is known here of the primary: the mover of the group."""

    behind_bytes: int
    telling: bool  # it is being told that its epoch is over

    @property
    def primary_now(self) -> int: ...
    @property
    def recovery_point(self) -> int: ...
    async def sync(self) -> int: ...
    def covered(self, token: int) -> bool: ...


Find = Callable[[str], Upstream | None]


class Relay:
    """What a session does otherwise where the group is a secondary itself.

    It also holds, for any session, as what the group was offered: a session ends with that.
    """

    def __init__(self, pool: Pool, group: Group, upstream: Find) -> None:
        self._pool = pool
        self._group = group
        self._upstream = upstream
        self._offered = self._standing()
        self._asked: tuple[int, int] | None = None  # SYNC that came, and the one that went on
        self.covered = 0  # newest SYNC that the cut here covers

    def _standing(self) -> tuple[object, ...]:
        group = self._group
        return group.role, group.identity, tuple(group.takeovers), tuple(group.way)

    def check(self) -> None:
        """Whether the group is still what it was when the session began. Raises `StaleEpoch`."""
        if self._standing() != self._offered or role_of(self._group) not in (
            Role.PRIMARY,
            Role.HANDING,
            Role.SECONDARY,
        ):
            raise StaleEpoch(f"group {self._group.name} is no longer served here as it was")

    @property
    def cut(self) -> int:
        return self._group.cut

    @property
    def relays(self) -> bool:
        return self._group.role == "secondary"

    def place(self, peer: str, acked: int, begun: Iterable[int]) -> Mark:
        """The cut to send: no new one, but that at which the group is."""
        group = self._group
        mark = group.mark(group.cut)
        if mark is None:
            raise Unavailable(f"group {group.name} has to get another cut here first")
        self._pool.record(
            r.CutRelayed(
                group=group.name,
                peer=peer,
                acked=acked,
                cut=mark.cut,
                begun=(*sorted(set(begun) - {0}), mark.cut),
            )
        )
        return mark

    async def news(self, token: int, *, level: bool) -> Relayed:
        """What is known of the primary. `token`: newest SYNC; `level`: the cut here is there."""
        group, upstream = self._group, self._upstream(self._group.name)
        if upstream is None:
            raise Unavailable(f"group {group.name} is not followed here any more")
        if token > self.covered and (self._asked is None or self._asked[0] < token):
            self._asked = token, await upstream.sync()
        if level and self._asked is not None and upstream.covered(self._asked[1]):
            self.covered, self._asked = self._asked[0], None
        return Relayed(
            stamp=max(upstream.primary_now, 0),
            cut=group.cut,
            point=upstream.recovery_point,
            behind_bytes=upstream.behind_bytes if level else -1,
            token=self.covered,
        )


def way(pool: Pool, group: Group) -> tuple[str, ...]:
    """Pools from the primary on to this one. Raises `Conflict` if it is too long."""
    found = (*(group.way if group.role == "secondary" else ()), pool.identity)
    if len(found) > CASCADE_SITES_MAX:
        raise Conflict(
            f"group {group.name} comes here over {len(found) - 1} sites;"
            f" at most {CASCADE_SITES_MAX} can follow one another",
            hint="follow a site that is nearer to the primary",
        )
    return found


def check_way(pool: Pool, group: Group, told: tuple[str, ...]) -> None:
    """Whether a group may be followed over these pools. Raises `Conflict` for a ring."""
    if pool.identity in told:
        raise Conflict(
            f"group {group.name} would be mirrored in a ring: it gets there from this controller",
            hint=f"follow another site: isochrone mirror repoint {group.name} ADDRESS",
        )


async def pass_on(pool: Pool, group: Group, fence: Fence, upstream: Upstream | None) -> None:
    """Tell the primary that its epoch is over, if it is not this site. Raises `Unavailable`.

    Only then may the new primary believe that nobody writes at the old one any more. In the middle
    of a switch two sites are secondaries of each other: what comes round is not passed on again.
    """
    if group.role != "secondary" or not group.source:
        return
    if upstream is None or upstream.telling:
        raise Unavailable(f"the primary of group {group.name} is not known here at this moment")
    upstream.telling = True
    try:
        async with asyncio.timeout(PASS_ON_SECONDS_MAX):
            talk = Conversation(await pool.world.net.connect(group.source))
            try:
                await talk.send(fence)
                await talk.expect(Fenced)
            finally:
                talk.close()
    except TimeoutError:
        raise Unavailable(f"the primary of group {group.name} cannot be told") from None
    finally:
        upstream.telling = False
