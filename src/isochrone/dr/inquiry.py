"""Questions to another site's link, outside of any mirror session. Nothing is changed by asking."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from isochrone.errors import Conflict, PeerFault, Unavailable
from isochrone.mirror.conversation import Conversation
from isochrone.mirror.messages import Hello, Switch, Switched, Welcome
from isochrone.mirror.roles import Branch
from isochrone.store.catalogue import Group
from isochrone.store.pool import Pool
from isochrone.store.records import Takeover
from isochrone.types import Lineage

ANSWER_SECONDS_MAX: Final = 15.0  # a sync of a busy disk; a link that is silent ends sooner


@dataclass(frozen=True, slots=True)
class Offer:
    """What a site that serves a group says of it."""

    source: str
    pool: str
    branch: Branch
    cut: int
    volumes: dict[str, int]  # name -> id there
    way: tuple[str, ...]
    cuts: tuple[int, ...]  # since which it knows what has changed


async def ask_offer(pool: Pool, group: Group, source: str) -> Offer:
    """What is served at an address, whatever history it is of. Raises what is in the way."""
    hello = Hello(pool=pool.identity, group=group.name, lineage="", epoch=0, cut=0, purpose="probe")
    try:
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            talk = Conversation(await pool.world.net.connect(source))
            try:
                await talk.send(hello)
                welcome = await talk.expect(Welcome)
            finally:
                talk.close()
    except TimeoutError:
        raise Unavailable(f"{source} does not answer") from None
    if welcome.pool == pool.identity:
        raise Conflict(f"{source} is this controller")
    volumes = {volume.name: volume.id for volume in welcome.volumes}
    if len(set(volumes.values())) != len(welcome.volumes):
        raise PeerFault(f"{source} names a volume of group {group.name} twice")
    takeovers = tuple(Takeover(t.epoch, t.cut, t.pool) for t in welcome.takeovers)
    lineage = Lineage(welcome.lineage, welcome.epoch)
    begun_by = next((t.pool for t in takeovers if t.epoch == welcome.epoch), "")
    return Offer(
        source=source,
        pool=welcome.pool,
        branch=Branch(lineage, begun_by, takeovers),
        cut=welcome.cut,
        volumes=volumes,
        way=welcome.way,
        cuts=tuple(sorted(welcome.cuts)),
    )


async def ask_switch(pool: Pool, source: str, message: Switch) -> Switched:
    """Say one step of a switch to the old primary. Raises `PeerFault` with what it objects to."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            talk = Conversation(await pool.world.net.connect(source))
            try:
                await talk.send(message)
                return await talk.expect(Switched)
            finally:
                talk.close()
    except TimeoutError:
        raise Unavailable(f"{source} does not answer") from None
