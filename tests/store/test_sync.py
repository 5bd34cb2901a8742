"""Who waits for a sync, which one covers it, and what is told when one fails."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from errno import EIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.errors import PoolFailed
from isochrone.store.log import SyncTicket
from isochrone.store.sync import BRIEF_BYTES_MAX, SharedSync

Told = list[BaseException | None]


class FakeFile:
    def sync(self) -> None: ...


class FakeLog:
    """Counts; the real one is held to the same calls by the tests of the pool."""

    def __init__(self) -> None:
        self.lsn = self.durable = 0
        self.bytes_appended = 0
        self.files: tuple[Any, ...] = (FakeFile(),)
        self.disk: Any = None
        self.tickets: list[SyncTicket] = []

    def append(self, size: int = 4096) -> int:
        self.lsn += 1
        self.bytes_appended += size
        return self.lsn

    def begin_sync(self) -> SyncTicket:
        self.tickets.append(SyncTicket(self.lsn, self.files, self.disk))
        return self.tickets[-1]

    def end_sync(self, ticket: SyncTicket) -> None:
        assert ticket is self.tickets[-1]
        self.durable = ticket.lsn


class Desk:
    """Work that is done when the test says so; brief work at once."""

    def __init__(self) -> None:
        self.orders: deque[Callable[[BaseException | None], None]] = deque()
        self.brief: list[bool] = []

    def start(
        self, work: Callable[[], None], done: Callable[[Any], None], *, brief: bool = False
    ) -> None:
        self.brief.append(brief)
        if brief:
            work()
            done(None)
        else:
            self.orders.append(done)

    def end(self, error: BaseException | None = None) -> None:
        self.orders.popleft()(error)


class Rig:
    def __init__(self) -> None:
        self.log = FakeLog()
        self.desk = Desk()
        self.failures: list[str] = []
        self.sync = SharedSync(self.log, self.desk, self.failures.append)  # type: ignore[arg-type]

    def wait(self, *, alone: bool = False) -> Told:
        told: Told = []
        self.sync.when_durable(told.append, alone=alone)
        return told


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_what_is_durable_already_needs_no_sync(rig: Rig) -> None:
    assert rig.wait() == [None]
    assert not rig.log.tickets


def test_all_who_wait_share_a_sync(rig: Rig) -> None:
    rig.log.append()
    first, second = rig.wait(), rig.wait()
    assert (first, second) == ([], [])
    rig.desk.end()
    assert (first, second) == ([None], [None])
    assert len(rig.log.tickets) == 1


def test_a_sync_that_began_before_does_not_cover_it_and_the_next_begins_at_once(rig: Rig) -> None:
    rig.log.append()
    first = rig.wait()
    rig.log.append()
    second, third = rig.wait(), rig.wait()
    rig.desk.end()
    assert (first, second, third) == ([None], [], [])
    assert [ticket.lsn for ticket in rig.log.tickets] == [1, 2]
    rig.desk.end()
    assert (second, third) == ([None], [None])
    assert not rig.desk.orders


def test_the_next_sync_has_begun_when_callbacks_run(rig: Rig) -> None:
    rig.log.append()
    rig.sync.when_durable(lambda error: begun.append(len(rig.log.tickets)))
    begun: list[int] = []
    rig.log.append()
    rig.wait()
    rig.desk.end()
    assert begun == [2]


def test_a_callback_may_wait_again(rig: Rig) -> None:
    told: Told = []

    def again(error: BaseException | None) -> None:
        rig.log.append()
        rig.sync.when_durable(told.append)

    rig.log.append()
    rig.sync.when_durable(again)
    rig.desk.end()
    assert told == []
    rig.desk.end()
    assert told == [None]


def test_little_data_and_nobody_else_is_brief(rig: Rig) -> None:
    rig.log.append(BRIEF_BYTES_MAX)
    assert rig.wait(alone=True) == [None]
    assert rig.desk.brief == [True]


def test_what_may_take_long_is_not_brief(rig: Rig) -> None:
    rig.log.append()
    assert rig.wait(alone=False) == []
    rig.desk.end()
    rig.log.append(BRIEF_BYTES_MAX + 1)
    assert rig.wait(alone=True) == []
    rig.desk.end()
    rig.log.files = (FakeFile(), FakeFile())  # a new segment has begun
    rig.log.append()
    assert rig.wait(alone=True) == []
    rig.desk.end()
    rig.log.files, rig.log.disk = (FakeFile(),), object()  # its name is new
    rig.log.append()
    assert rig.wait(alone=True) == []
    assert rig.desk.brief == [False] * 4


def test_a_failure_is_told_to_all_and_no_sync_follows(rig: Rig) -> None:
    rig.log.append()
    known: list[list[str]] = []
    rig.sync.when_durable(lambda error: known.append(list(rig.failures)))
    first = rig.wait()
    rig.log.append()
    second = rig.wait()
    rig.desk.end(OSError(EIO, "Input/output error"))
    assert [type(told[0]) for told in (first, second)] == [PoolFailed, PoolFailed]
    assert known == [["a sync failed: Input/output error"]]  # before anybody was told
    assert rig.log.durable == 0
    assert len(rig.log.tickets) == 1


@pytest.mark.parametrize("error", [None, OSError(EIO, "Input/output error")])
def test_who_breaks_when_told_keeps_nobody_else_waiting(rig: Rig, error: OSError | None) -> None:
    def breaks(error: BaseException | None) -> None:
        raise RuntimeError("a defect")

    rig.log.append()
    rig.sync.when_durable(breaks)
    told = rig.wait()
    with pytest.raises(RuntimeError, match="a defect"):
        rig.desk.end(error)
    assert [type(failure) for failure in told] == [PoolFailed if error else type(None)]


def test_the_end_of_the_program_is_no_failure_of_the_disk(rig: Rig) -> None:
    class End(BaseException):
        pass

    rig.log.append()
    told = rig.wait()
    rig.desk.end(End())
    assert [type(error) for error in told] == [End]


@given(st.lists(st.sampled_from(["append", "wait", "alone", "end"]), max_size=60))
def test_nobody_is_told_before_it_is_durable_and_nobody_is_forgotten(steps: list[str]) -> None:
    rig = Rig()
    waiting: list[tuple[int, Told]] = []
    for step in steps:
        if step == "append":
            rig.log.append()
        elif step in ("wait", "alone"):
            waiting.append((rig.log.lsn, rig.wait(alone=step == "alone")))
        elif rig.desk.orders:
            rig.desk.end()
        assert len(rig.desk.orders) <= 1
        for lsn, told in waiting:
            assert told == ([None] if lsn <= rig.log.durable else [])
    while rig.desk.orders:
        rig.desk.end()
    assert all(told == [None] for _, told in waiting)
