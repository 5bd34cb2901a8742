"""A planned switch, run at the site that takes over: nothing is lost, and nothing is copied.

The steps are in `plan`; each is durable at the site that does it before the next begins. What was
broken off is gone on with by asking for the switch again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final

import structlog

from isochrone.dr.inquiry import ask_switch
from isochrone.dr.plan import Seen, Step, next_step
from isochrone.dr.reports import SwitchReport
from isochrone.errors import Conflict, DeadlinePassed, IsochroneError, Unavailable
from isochrone.mirror import handover
from isochrone.mirror.groups import find_group
from isochrone.mirror.messages import RemoteVolume, Switch, Switched
from isochrone.mirror.roles import Role, role_of
from isochrone.mirror.service import Mirrors
from isochrone.store import records as r
from isochrone.store.catalogue import Group
from isochrone.store.pool import Pool

CATCH_UP_SECONDS: Final = 10.0  # for one try: the primary is asked again how it stands

RETRY_SECONDS: Final = 0.5  # between tries to reach the old primary again, until time is up

log = structlog.get_logger()


class PlannedSwitch:
    """One try to take a group over from its primary."""

    def __init__(
        self, pool: Pool, mirrors: Mirrors, name: str, *, address: str, force: bool = False
    ) -> None:
        self._pool = pool
        self._mirrors = mirrors
        self._name = name
        self._address = address
        self._force = force
        self._source = self._group.source
        self._hosts: list[str] = []
        self.steps: list[Step] = []  # that were begun

    @property
    def _group(self) -> Group:
        return find_group(self._pool, self._name)

    async def run(self, timeout: float) -> SwitchReport:
        """Raises `DeadlinePassed`, or what is in the way; until YIELD the primary goes on then."""
        clock = self._pool.world.clock
        held_at = clock.monotonic()
        try:
            async with asyncio.timeout(timeout):
                while (step := await self._next()) is not Step.DONE:
                    log.info("planned switch", group=self._name, step=step.value)
                    if step is Step.HOLD:
                        held_at = clock.monotonic()
                    self.steps.append(step)  # also if the answer is lost: it may be done
                    await self._insist(self._do(step))
        except TimeoutError:
            await self._give_up()
            raise DeadlinePassed(
                f"group {self._name}: the last cut did not come within {timeout:g} s",
                hint=f"see: isochrone mirror status {self._name}; the old primary goes on"
                " if it could be told",
            ) from None
        group = self._group
        return SwitchReport(
            group=group.name,
            cut=group.kept_cut or group.cut,
            cut_stamp=group.cut_stamp,
            epoch=group.epoch,
            old_primary=self._source,
            steps=[step.value for step in dict.fromkeys(self.steps)],
            hosts=self._hosts,
            held_seconds=clock.monotonic() - held_at,
        )

    async def _next(self) -> Step:
        """Raises `Unavailable` if the old primary cannot be reached and nothing was begun."""
        while True:
            try:
                return next_step(await self._look())
            except Unavailable:
                if not self.steps:
                    raise
                await self._pool.world.clock.sleep(RETRY_SECONDS)

    async def _insist(self, work: Coroutine[Any, Any, None]) -> None:
        """Once nobody can write, a link that fails is no reason to leave it at that."""
        with suppress(Unavailable):
            await work

    # -- looking

    async def _ask(self, act: str) -> Switched:
        group, volumes = self._group, self._pool.state.volumes
        found = await ask_switch(
            self._pool,
            self._source,
            Switch(
                pool=self._pool.identity,
                group=group.name,
                lineage=group.lineage,
                epoch=group.epoch,
                act=act,  # type: ignore[arg-type]
                cut=group.cut,
                force=self._force,
                source=self._address if act == "yield" else "",
                volumes=tuple(
                    RemoteVolume(id, volumes[id].name, volumes[id].size) for id in group.volumes
                )
                if act == "yield"
                else (),
            ),
        )
        self._hosts = self._hosts or list(found.hosts)
        return found

    async def _look(self) -> Seen:
        there = await self._ask("look")
        group = self._group
        role = Role.__members__.get(there.role)
        if role is None:
            raise Conflict(f"{self._source} says that group {self._name} is {there.role!r}")
        return Seen(
            here=role_of(group),
            here_epoch=group.epoch,
            here_cut=group.cut,
            there=role,
            there_epoch=there.epoch,
            there_cut=there.cut,
            heir=there.heir == self._pool.identity,
            clean=there.clean,
        )

    # -- doing

    async def _do(self, step: Step) -> None:
        match step:
            case Step.HOLD:
                await self._ask("hold")
            case Step.CATCH_UP:
                with suppress(DeadlinePassed):
                    await self._mirrors.wait(self._name, timeout=CATCH_UP_SECONDS)
            case Step.YIELD:
                await self._ask("yield")
            case Step.TAKE_OVER:
                await self._take_over()

    async def _take_over(self) -> None:
        pool = self._pool
        async with self._mirrors.released(self._name):
            group = self._group
            if role_of(group) is not Role.SECONDARY:
                raise Conflict(f"group {self._name} is {group.role} here meanwhile")
            pool.record(
                r.Promoted(
                    group=self._name,
                    epoch=group.epoch + 1,
                    stamp=pool.world.clock.wall_ns(),
                    lost={"bytes": 0},
                    pool=pool.identity,
                )
            )
            pool.record(r.PeerFenced(group=self._name))  # it follows this site: it need not be told
        await pool.flush()

    async def _give_up(self) -> None:
        """Let the old primary go on, if it has not yielded and can be reached."""
        with suppress(IsochroneError):
            await self._ask("cancel")


async def switch(
    pool: Pool, mirrors: Mirrors, name: str, *, address: str, force: bool, timeout: float
) -> SwitchReport:
    """Take a group over from its primary as planned; it will follow this site at `address`."""
    group = find_group(pool, name)
    if not address:
        raise Conflict(
            "the old primary could not follow this controller: it listens nowhere for it",
            hint="start it with --link HOST:PORT, or say --address HOST:PORT",
        )
    if not group.source:
        raise Conflict(
            f"group {name} is the primary here, and no other site was asked to hand it over",
            hint="run it at the secondary that is to take over",
        )
    return await PlannedSwitch(pool, mirrors, name, address=address, force=force).run(timeout)


def cancel(pool: Pool, name: str) -> None:
    """At the primary: let hosts write again; flush before saying so."""
    handover.cancel(pool, name)
