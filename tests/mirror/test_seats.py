"""Places at the listener: bounded in all, and nobody locks another out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.errors import Conflict, IsochroneError, Unavailable
from isochrone.mirror import conversation, groups
from isochrone.mirror.link import Link
from isochrone.mirror.messages import AnyMessage, Hello, Refuse, Welcome
from isochrone.mirror.seats import (
    OWN_MAX,
    SESSIONS_MAX,
    SHARED_MAX,
    WAITING_MAX,
    WAITING_OF_ONE_MAX,
    Seat,
    Seats,
    host_of,
)
from isochrone.mirror.service import Mirrors
from isochrone.store import volumes
from isochrone.store.pool import Pool
from isochrone.types import MIB
from isochrone.world import system_world
from isochrone.world.disk import FolderDisk
from tests.mirror.sites import LIMITS


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("('10.0.0.9', 4411)", "10.0.0.9"),
        ("('::ffff:10.0.0.9', 4411, 0, 0)", "10.0.0.9"),
        ("('2001:db8::7', 4411, 0, 0)", "2001:db8::/64"),
        ("('fe80::1%eth0', 4411, 0, 2)", "fe80::/64"),
        ("b:7001", "b"),
        ("unix", "unix"),
        ("", ""),
    ],
)
def test_the_host_of_a_peer(peer: str, host: str) -> None:
    assert host_of(peer) == host


def fill(found: Seats, who: str, most: int = 1000) -> list[Seat]:
    """As many as one can get."""
    taken = []
    with contextlib.suppress(Conflict):
        for _ in range(most):
            seat = found.enter(who)
            taken.append(seat)
            seat.sit()
    return [seat for seat in taken if seat.at.value == "seated"]


def test_one_site_gets_half_and_each_its_own() -> None:
    found = Seats()
    assert len(fill(found, "greedy")) == OWN_MAX + SHARED_MAX // 2
    assert len(fill(found, "more")) == OWN_MAX + SHARED_MAX // 4
    for n in range(40):
        assert len(fill(found, f"late {n}", OWN_MAX)) == OWN_MAX


def test_who_leaves_makes_room() -> None:
    found = Seats()
    first = fill(found, "a")
    for seat in first:
        seat.leave()
        seat.leave()
    assert found.seated == 0
    assert len(fill(found, "b")) == len(first)


def test_few_wait() -> None:
    found = Seats()
    for _ in range(WAITING_OF_ONE_MAX):
        found.enter("a")
    with pytest.raises(Unavailable):
        found.enter("a")
    for n in range(WAITING_MAX - WAITING_OF_ONE_MAX):
        found.enter(f"b{n}")
    with pytest.raises(Unavailable):
        found.enter("c")


@given(st.lists(st.tuples(st.integers(0, 90), st.sampled_from(["enter", "sit", "leave"]))))
def test_no_bound_is_ever_exceeded(acts: list[tuple[int, str]]) -> None:
    found, held = Seats(), list[Seat]()
    for number, act in acts:
        with contextlib.suppress(IsochroneError):
            if act == "enter":
                held.append(found.enter(f"s{number % 5}"))
            elif held:
                getattr(held[number % len(held)], act)()
        at = [seat.at.value for seat in held]
        assert (found.waiting, found.seated) == (at.count("waiting"), at.count("seated"))
        assert found.waiting <= WAITING_MAX
        assert found.seated <= SESSIONS_MAX


def test_there_is_a_place_for_each_site_in_any_case() -> None:
    found = Seats()
    for n in range(8):
        fill(found, f"greedy {n}")
    for n in range((SESSIONS_MAX - found.seated) // OWN_MAX):
        assert len(fill(found, f"late {n}", OWN_MAX)) == OWN_MAX
    with pytest.raises(Conflict, match=f"{SESSIONS_MAX} connections"):
        found.enter("one more").sit()


# -- with real sockets

HELLO = Hello(pool="x", group="g", lineage="", epoch=0, cut=0, purpose="verify")


class Caller:
    """A connection from one of the many addresses of this machine's loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._link = Link()

    @classmethod
    async def call(cls, address: str, port: int) -> Caller:
        return cls(*await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0)))

    async def says(self, message: AnyMessage) -> AnyMessage | None:
        """The answer, or None if it was hung up on."""
        with contextlib.suppress(ConnectionError):
            self._writer.writelines(self._link.send(message))
            while (answer := self._link.next()) is None:
                data = await self._reader.read(1 << 16)
                if not data:
                    return None
                self._link.receive(data)
            return answer
        return None

    async def ended(self) -> None:
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(1 << 16):
                pass

    def close(self) -> None:
        self._writer.close()


Scenario = Callable[[Mirrors, int], Awaitable[None]]


def at_a_listener(folder: Path, scenario: Scenario) -> None:
    async def main() -> None:
        world = system_world()
        disk = FolderDisk(folder)
        pool = Pool.open(disk, world, LIMITS)
        volumes.create(pool, "v", MIB)
        groups.create(pool, "g", ["v"])
        mirrors = Mirrors(pool, world)
        bound = await mirrors.listen("127.0.0.1:0")
        try:
            async with asyncio.timeout(20):
                await scenario(mirrors, int(bound.rpartition(":")[2]))
        finally:
            await mirrors.stop()
            await pool.close()
            disk.close()

    asyncio.run(main())


def test_one_host_cannot_lock_another_out(tmp_path: Path) -> None:
    async def scenario(mirrors: Mirrors, port: int) -> None:
        greedy = []
        for _ in range(OWN_MAX + SHARED_MAX // 2):
            greedy.append(await Caller.call("127.0.0.2", port))
            assert isinstance(await greedy[-1].says(HELLO), Welcome)
        late = await Caller.call("127.0.0.2", port)
        answer = await late.says(HELLO)
        assert isinstance(answer, Refuse)
        assert "127.0.0.2 has" in answer.message
        other = await Caller.call("127.0.0.3", port)
        assert isinstance(await other.says(HELLO), Welcome)
        greedy.pop().close()
        late.close()
        while mirrors._seats.seated > len(greedy) + 1:
            await asyncio.sleep(0)
        again = await Caller.call("127.0.0.2", port)
        assert isinstance(await again.says(HELLO), Welcome)
        for caller in (*greedy, other, again):
            caller.close()

    at_a_listener(tmp_path, scenario)


def test_who_says_nothing_is_let_go_and_locks_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "FIRST_SECONDS_MAX", 0.5)

    async def scenario(mirrors: Mirrors, port: int) -> None:
        idle = [await Caller.call("127.0.0.2", port) for _ in range(WAITING_OF_ONE_MAX)]
        while mirrors._seats.waiting < WAITING_OF_ONE_MAX:
            await asyncio.sleep(0)
        late = await Caller.call("127.0.0.2", port)
        assert await late.says(HELLO) is None
        other = await Caller.call("127.0.0.3", port)
        assert isinstance(await other.says(HELLO), Welcome)
        for caller in idle:
            await caller.ended()
        while mirrors._seats.waiting:
            await asyncio.sleep(0)
        again = await Caller.call("127.0.0.2", port)
        assert isinstance(await again.says(HELLO), Welcome)
        for caller in (*idle, late, other, again):
            caller.close()

    at_a_listener(tmp_path, scenario)
