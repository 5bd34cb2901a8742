"""Each checker finds what it is there for: one violation of each kind, planted by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from isochrone.sim import checkers
from isochrone.sim.checkers import Violation
from isochrone.sim.history import History
from isochrone.store import copies, volumes
from isochrone.store import records as r
from isochrone.types import BLOCK
from tests.mirror.sites import GROUP, Host, Two, fill, play

BLOCKS = 1024  # of each volume of the group


class Both:
    """A history, and what really happens to the pool."""

    def __init__(self, two: Two) -> None:
        self.two, self.history = two, History()

    @property
    def host(self) -> Host:
        return self.two.a

    def create(self, name: str, blocks: int = 256) -> None:
        volumes.create(self.host.pool, name, blocks * BLOCK)
        self.history.create(name, blocks, self.now())

    def now(self) -> int:
        return self.host.site.clock.wall_ns()

    def write(self, name: str, block: int, text: str) -> None:
        self.host.write(name, block, text)
        self.said(name, block, text)

    def said(self, name: str, block: int, text: str) -> None:
        self.history.write(name, block, fill(text), self.now())

    def flushed(self) -> None:
        self.history.flushed = self.history.op

    def prefix(self) -> int:
        return checkers.prefix(self.history, self.host.pool)


# -- (a) a prefix


def alone(act: Callable[[Both], None]) -> None:
    async def scenario(two: Two) -> None:
        both = Both(two)
        both.create("v")
        both.create("w")
        act(both)

    play(scenario, made=False)


def broken(both: Both, words: str = r"\(a\) no state from op") -> None:
    with pytest.raises(Violation, match=words):
        both.prefix()


def test_the_newest_state_is_a_prefix() -> None:
    def act(both: Both) -> None:
        both.write("v", 1, "a")
        both.write("w", 1, "b")
        assert both.prefix() == 4
        both.said("w", 2, "lost")
        assert both.prefix() == 4
        both.flushed()
        broken(both)  # it was promised to survive

    alone(act)


def test_a_later_write_without_an_earlier_one() -> None:
    def act(both: Both) -> None:
        both.said("v", 1, "lost")
        both.write("w", 1, "kept")
        broken(both)

    alone(act)


def test_a_block_that_nobody_wrote() -> None:
    def act(both: Both) -> None:
        both.host.write("v", 9, "from nowhere")
        broken(both)

    alone(act)


def test_a_wrong_block() -> None:
    def act(both: Both) -> None:
        both.write("v", 1, "a")
        both.host.write("v", 1, "b")
        broken(both)

    alone(act)


def test_a_lost_discard_and_a_lost_resize() -> None:
    def act(both: Both) -> None:
        both.write("v", 1, "a")
        both.history.discard("v", 1, 1, both.now())
        both.flushed()
        broken(both)
        both.host.discard("v", 1, 1)
        both.prefix()
        both.history.resize("v", 300, both.now())
        both.flushed()
        broken(both)

    alone(act)


def test_a_lost_copy_a_late_copy_and_one_from_nowhere() -> None:
    def act(both: Both) -> None:
        both.history.copy("c1", ("v",), both.now())
        both.write("v", 1, "later")
        both.flushed()
        broken(both)
        copies.take(both.host.pool, ["v"], name="c1")
        broken(both, "explains v@c1")  # it holds what came after it

    alone(act)


def test_a_deletion_that_did_not_happen() -> None:
    def act(both: Both) -> None:
        both.history.copy("c1", ("v",), both.now())
        copies.take(both.host.pool, ["v"], name="c1")
        both.prefix()
        both.history.delete_copy("c1", both.now())
        both.flushed()
        broken(both)

    alone(act)


# -- (b) and (c) a secondary and its copies


def mirrored(act: Callable[[Both], None], *, wait: bool = True) -> None:
    """After a write, a copy and another write, all of them mirrored."""

    async def scenario(two: Two) -> None:
        both = Both(two)
        for name in ("db", "wal"):
            both.history.create(name, BLOCKS, both.now())
        both.said("db", 0, "first")
        await two.mirror()
        both.write("db", 1, "a")
        both.write("wal", 1, "b")
        both.history.copy("c1", ("db", "wal"), both.now())
        copies.take(two.a.pool, ["db", "wal"], name="c1")
        both.write("db", 1, "c")
        await two.b.wait()
        check(both)
        await two.b.call(two.b.mirrors.stop())  # nothing repairs what is planted now
        await asyncio.sleep(1)
        act(both)

    play(scenario, mirrored=False)


def check(both: Both, op: int | None = None, since: int = 3) -> None:
    op = both.history.op if op is None else op
    checkers.secondary(both.history, op, both.two.b.pool, GROUP, since)


def found(both: Both, words: str, op: int | None = None) -> None:
    with pytest.raises(Violation, match=words):
        check(both, op)


def scribble(both: Both, name: str, block: int, text: str) -> None:
    """Write where nothing may be written."""
    pool = both.two.b.pool
    pool.stage_write(
        pool.state.names[name], block, memoryview(fill(text) if text else bytes(BLOCK))
    )
    pool.commit()


def test_a_secondary_at_another_cut() -> None:
    def act(both: Both) -> None:
        found(both, r"\(b\).*block 1 of db", op=both.history.op - 1)
        both.said("wal", 7, "not there")
        found(both, r"\(b\).*block 7 of wal")

    mirrored(act)


@pytest.mark.parametrize(("name", "text"), [("db", "x"), ("db", ""), ("wal", "x")])
def test_one_wrong_block_of_one_volume(name: str, text: str) -> None:
    def act(both: Both) -> None:
        scribble(both, name, 1, text)
        found(both, rf"\(b\).*block 1 of {name}")

    mirrored(act)


def test_a_block_that_was_never_written_at_the_secondary() -> None:
    def act(both: Both) -> None:
        scribble(both, "wal", 900, "x")
        found(both, "block 900 of wal was never written")

    mirrored(act)


def test_another_size() -> None:
    def act(both: Both) -> None:
        both.history.resize("wal", BLOCKS + 1, both.now())
        found(both, r"\(b\).*wal has 1024 blocks")

    mirrored(act)


def test_a_volume_that_is_missing() -> None:
    def act(both: Both) -> None:
        found(both, r"\(b\).*is missing", op=0)

    mirrored(act)


def test_a_mirrored_copy_that_is_not_its_origin() -> None:
    def act(both: Both) -> None:
        scribble(both, "db@c1", 1, "c")
        found(both, r"\(c\).*block 1 of db@c1")

    mirrored(act)


def test_a_copy_that_did_not_come() -> None:
    def act(both: Both) -> None:
        both.history.copy("c2", ("db",), both.now())
        found(both, r"\(c\) copy c2 did not come")
        check(both, since=both.history.op)  # taken before the first copy: it need not
        both.history.create("other", 1, both.now())
        both.history.copy("c3", ("other",), both.now())
        check(both, since=both.history.op - 2)  # nor one without volumes of the group

    mirrored(act)


def test_a_copy_that_was_deleted_at_its_origin() -> None:
    def act(both: Both) -> None:
        both.history.delete_copy("c1", both.now())
        found(both, r"\(c\) copy c1 does not exist at its origin")

    mirrored(act)


def test_a_copy_with_other_members() -> None:
    def act(both: Both) -> None:
        state = both.two.b.pool.state
        state.copies["c1"].members.pop()
        found(both, r"\(c\) copy c1 has other members")

    mirrored(act)


def test_a_volume_that_was_left_behind() -> None:
    def act(both: Both) -> None:
        pool = both.two.b.pool
        checkers.nothing_hidden(pool)
        places = (r.IncomingVolume(9, "db", BLOCK, 90, 91),)
        pool.record(
            r.IncomingBegun(group=GROUP, lineage="x", epoch=1, base=0, volumes=places),
        )
        checkers.nothing_hidden(pool)  # on its way
        pool.state.groups[GROUP].incoming = None
        with pytest.raises(Violation, match="1 volumes are left behind: db"):
            checkers.nothing_hidden(pool)

    mirrored(act)


# -- (d) the recovery point


def test_a_recovery_point_that_promises_too_much() -> None:
    history = History()
    history.create("v", 10, now=100)
    history.create("w", 10, now=100)
    history.write("v", 1, fill("a"), now=110)
    history.write("w", 1, fill("b"), now=120)
    checkers.recovery_point(history, 4, 1000, ["v", "w"])
    checkers.recovery_point(history, 3, 120, ["v", "w"])
    checkers.recovery_point(history, 3, 121, ["v"])
    with pytest.raises(Violation, match=r"\(d\) op 4"):
        checkers.recovery_point(history, 3, 121, ["v", "w"])
    history.copy("c1", ("w",), now=130)
    with pytest.raises(Violation, match=r"\(d\) op 5"):
        checkers.recovery_point(history, 4, 131, ["w"])
