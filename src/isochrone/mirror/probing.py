"""Restore probes: forking a replica for one run of a check, and what came of it.

The check runs where the command line runs; here is what has to be true also if that dies: the copy
is gone in the end, nobody else probes the same group meanwhile, and a result is on record or it is
said that there is none. Order of the records: begun, then the copy; the copy's end, then the
result. So a crash leaves a probe without a copy, never a copy without its probe.
"""

from __future__ import annotations

from typing import Final

import structlog

from isochrone.errors import Conflict, InvalidInput, IsochroneError
from isochrone.mirror.rewind import find_window
from isochrone.store import copies, windows
from isochrone.store import records as r
from isochrone.store.catalogue import Copy
from isochrone.store.names import NAME_CHARS_MAX
from isochrone.store.points import SECOND, Point
from isochrone.store.pool import Pool
from isochrone.store.probes import (
    CHECK_CHARS_MAX,
    PROBES_MAX,
    SAID_CHARS_MAX,
    SECONDS_MAX,
    Probe,
    Probes,
    Result,
)

LOOK_SECONDS: Final = 5.0  # between looks for probes that nobody ends

log = structlog.get_logger("isochrone.probes")


def newest_point(pool: Pool, name: str) -> Point:
    """What a promotion would bring back. Raises `NotFound` or `Conflict`."""
    _, window = find_window(pool, name)
    if not window.points:
        raise Conflict(
            f"no point of group {name!r} is kept here",
            hint=f"isochrone mirror rewind-window {name} --keep 1h, and wait for the next cut",
        )
    return window.points[-1]


class Prober:
    """Of one controller. `run` never returns by itself."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._ends: dict[str, float] = {}  # copy -> when it is over, by a clock that cannot jump

    def probes(self, name: str) -> Probes:
        """What is on record of a group; empty if nothing is. Raises `NotFound`, `Conflict`."""
        find_window(self._pool, name)
        return self._pool.state.probes.get(name, Probes(group=name))

    async def begin(self, name: str, point: Point, check: str, seconds: float) -> Probe:
        """Fork a group at a point. The exports are there when this returns.

        Raises `InvalidInput`, or `Conflict` while another probe of the group runs.
        """
        pool = self._pool
        group, _ = find_window(pool, name)
        if not 0 < seconds <= SECONDS_MAX:
            raise InvalidInput(
                f"a probe of {seconds:g} s is not possible",
                hint=f"more than 0, at most {SECONDS_MAX:g}",
            )
        if not check or len(check) > CHECK_CHARS_MAX:
            raise InvalidInput(f"a check has a command of 1 to {CHECK_CHARS_MAX} characters")
        running = self.probes(name).running
        if running is not None:
            raise Conflict(
                f"a probe of group {name!r} is running on the copy {running.copy!r}:"
                f" {running.check}",
                hint=f"wait for it, or: isochrone mirror probe {name} --stop",
            )
        copy = self._free_name(name, point)
        pool.record(
            r.ProbeBegun(
                group=name,
                copy=copy,
                cut=point.cut,
                stamp=point.stamp,
                check=check,
                began=pool.world.clock.wall_ns(),
                seconds=seconds,
            )
        )
        try:
            windows.open_point(pool, group, point, name=copy, writable=True, expendable=True)
        except IsochroneError as e:
            pool.record(self._ended(name, "bad", f"the point could not be opened: {e.message}"))
            raise
        self._ends[copy] = pool.world.clock.monotonic() + seconds
        await pool.flush()
        found = self._running(name, copy)
        log.info("probe begun", group=name, cut=point.cut, copy=copy, check=check)
        return found

    def _free_name(self, name: str, point: Point) -> str:
        state, base = self._pool.state, f"probe-{name[: NAME_CHARS_MAX - 32]}-{point.cut}"
        names = [base, *(f"{base}-{n}" for n in range(2, PROBES_MAX))]
        try:
            return next(name for name in names if name not in state.copies)
        except StopIteration:
            raise Conflict(
                f"there are copies {names[0]!r} to {names[-1]!r} already",
                hint="somebody held them: isochrone copy list",
            ) from None

    def _running(self, name: str, copy: str) -> Probe:
        known = self._pool.state.probes.get(name)
        running = known.running if known is not None else None
        if running is None or (copy and running.copy != copy):
            on = f" on {copy!r}" if copy else ""
            raise Conflict(
                f"no probe of group {name!r} is running{on}",
                hint=f"see: isochrone mirror probes {name}",
            )
        return running

    async def end(self, name: str, copy: str, *, good: bool, said: str) -> Probe:
        """Delete the copy, also under who has it open, and put the result on record.

        An empty copy means whichever runs. A result is good only if its copy was there to its end.
        Raises `Conflict` if it does not run.
        """
        probe = self._running(name, copy)
        found: Result = "good" if good else "bad"
        if self._copy(probe) is None:
            found, said = "bad", f"its copy was given up for space or deleted meanwhile; {said}"
        self._end(name, probe, found, said)
        await self._pool.flush()
        return probe

    def _copy(self, probe: Probe) -> Copy | None:
        """The fork; None if it is gone. What has its name since then is somebody else's."""
        copy = self._pool.state.copies.get(probe.copy)
        ours = copy is not None and copy.expendable and copy.as_of_cut == probe.cut
        return copy if ours else None

    def _end(self, name: str, probe: Probe, result: Result, said: str) -> None:
        pool = self._pool
        copy = self._copy(probe)
        if copy is not None:
            try:
                copies.give_up(pool, copy)
            except Conflict as e:  # somebody held or pinned it: they want to look at it
                log.warning("the copy of a probe stays", copy=copy.name, reason=e.message)
        self._ends.pop(probe.copy, None)
        pool.record(self._ended(name, result, said))
        level = log.info if result == "good" else log.warning
        level("probe ended", group=name, cut=probe.cut, result=result, said=probe.said)

    def _ended(self, name: str, result: Result, said: str) -> r.ProbeEnded:
        assert result, name
        now = self._pool.world.clock.wall_ns()
        return r.ProbeEnded(group=name, ended=now, result=result, said=said[:SAID_CHARS_MAX])

    async def run(self) -> None:
        while True:
            await self._pool.world.clock.sleep(LOOK_SECONDS)
            if not self._pool.failed:
                try:
                    self.look()
                except IsochroneError as e:  # a full disk: it is ended when there is room
                    log.error("a probe could not be ended", reason=e.message)

    def look(self) -> None:
        """End what nobody has ended in time. After a restart the time begins anew."""
        now = self._pool.world.clock.monotonic()
        for name, probes in list(self._pool.state.probes.items()):
            probe = probes.running
            if probe is not None and now >= self._ends.setdefault(probe.copy, now + probe.seconds):
                text = f"nobody said within {probe.seconds:g} s how it ended"
                self._end(name, probe, "expired", text)

    # -- what a status says

    def age(self, name: str) -> float:
        """Seconds since a probe of the group ended well; -1: none has."""
        known = self._pool.state.probes.get(name)
        good = known.good if known is not None else None
        if good is None:
            return -1.0
        return max(0.0, (self._pool.world.clock.wall_ns() - good.ended) / SECOND)

    def failed(self, name: str) -> bool:
        """Whether the newest probe that has ended did not end well."""
        known = self._pool.state.probes.get(name)
        newest = known.newest if known is not None else None
        return newest is not None and newest.result != "good"
