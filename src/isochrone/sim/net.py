"""The doors of one site to the pretended network; `fabric.py` is the network itself.

Addresses are those of the real net: `SITE:PORT`, a loopback address for one's own site, or a path,
which is private to its site.
"""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import Final

from isochrone.errors import Unavailable
from isochrone.sim.fabric import Place, SimFabric, SimListener
from isochrone.sim.loop import LIFE, Crashed, Life
from isochrone.world.net import CONNECT_SECONDS_MAX, Channel, Handler, split_address

OWN_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "::1", "0.0.0.0", "::"})


class SimNet:
    """The network as one life of one site sees it."""

    def __init__(self, fabric: SimFabric, site: str, life: Life | None = None) -> None:
        self._fabric = fabric
        self._site = site
        self._life = life

    async def connect(self, address: str) -> Channel:
        place = self._place(address)
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                await self._fabric.reach(self._site, place[0])
        except (Unavailable, TimeoutError) as e:
            raise Unavailable(f"nobody answers at {address}: {str(e) or 'timed out'}") from e
        self._check()
        listener = self._fabric.listeners.get(place)
        if listener is None:
            raise Unavailable(f"nobody answers at {address}: connection refused")
        near, far = self._fabric.open(self._site, place, address)
        listener.accept(far)
        return near

    async def listen(self, address: str, handler: Handler) -> SimListener:
        self._check()
        site, port = self._place(address)
        if port == "0":
            port = str(self._fabric.port())
        if site != self._site or (site, port) in self._fabric.listeners:
            raise Unavailable(f"cannot listen at {address}", hint="choose another address")
        context = copy_context()
        context.run(LIFE.set, self._life)
        listener = SimListener(self._fabric, (site, port), handler, context)
        self._fabric.listeners[site, port] = listener
        return listener

    def _place(self, address: str) -> Place:
        where = split_address(address)
        if where is None:
            return self._site, address
        host, port = where
        return self._site if host in OWN_HOSTS else host, str(port)

    def _check(self) -> None:
        if self._life is not None and not self._life.alive:
            raise Crashed(f"{self._site} has crashed")
