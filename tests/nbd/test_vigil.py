"""When the loop stays awake after a turn: virtual time and no loop; then a loop, and no rules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from isochrone.nbd import wire
from isochrone.nbd.vigil import (
    FEW_REQUESTS,
    NEEDED_LEAST,
    NEEDED_MOST,
    PUT_OFF_S,
    QUICK_S,
    SMALL_BYTES,
    Vigil,
)
from isochrone.world.clock import Clock
from isochrone.world.work import Work
from tests.nbd.serving import LOOPS, MemoryBackend, raw, request, serve


class Stage:
    """A vigil, its clock and its threads."""

    def __init__(self, processors: int = 2) -> None:
        self.now = 1000.0
        self.work = SimpleNamespace(running=0)
        clock = SimpleNamespace(monotonic=lambda: self.now)
        self.vigil = Vigil(cast(Clock, clock), cast(Work, self.work), processors)

    def turn(self, after: float, requests: int = 1, length: int = 4096) -> bool:
        """A turn some time after the last one; whether the loop is to look again."""
        self.now += after
        self.vigil.turn_begins([length] * requests)
        self.now += 10e-6
        self.vigil.turn_ends()
        return self.vigil.begins()

    def warm_up(self, after: float = 0) -> None:
        """As many quick requests as it takes before the next one."""
        self.turn(after)
        for _ in range(NEEDED_LEAST - 1):
            assert not self.turn(QUICK_S / 2)

    def look(self, after: float = 2e-6) -> bool:
        self.now += after
        return self.vigil.goes_on()

    def look_in_vain(self) -> None:
        for _ in range(1000):
            if not self.look():
                return
        pytest.fail("it never goes to sleep")


def test_the_first_request_and_a_slow_client_let_the_loop_sleep() -> None:
    stage = Stage()
    assert not stage.turn(0)
    assert not any(stage.turn(2 * QUICK_S) for _ in range(50))


def test_a_quick_client_keeps_it_awake() -> None:
    stage = Stage()
    stage.warm_up()
    for _ in range(50):
        assert stage.turn(QUICK_S / 2)
        assert stage.look() and stage.look()


def test_it_sleeps_soon_after_the_last_request() -> None:
    stage = Stage()
    stage.warm_up()
    assert stage.turn(QUICK_S / 2)
    before = stage.now
    stage.look_in_vain()
    assert stage.now - before < 1.1 * QUICK_S


def test_many_requests_in_one_turn_need_no_vigil() -> None:
    stage = Stage()
    stage.warm_up()
    assert stage.turn(QUICK_S / 2, FEW_REQUESTS)
    assert not stage.turn(QUICK_S / 2, FEW_REQUESTS + 1)


def test_a_client_with_many_requests_under_way_may_send_one_alone() -> None:
    """To wait for it would make more such turns, and each costs more for a request."""
    stage = Stage()
    stage.turn(0)
    for n in range(200):
        few = n % NEEDED_LEAST != 0
        assert not stage.turn(QUICK_S / 2, FEW_REQUESTS if few else 32)


def test_neither_do_large_requests_nor_what_is_left_of_them() -> None:
    for requests, length in ((1, SMALL_BYTES + 1), (0, 0)):
        stage = Stage()
        stage.warm_up()
        assert stage.turn(QUICK_S / 2, 1, SMALL_BYTES)
        assert not stage.turn(QUICK_S / 2, requests, length)


def test_looking_in_vain_takes_more_and_more_quick_requests_until_the_next_time() -> None:
    stage = Stage()
    needed = []
    for _ in range(9):
        stage.turn(1)
        turns = 1
        while not stage.turn(QUICK_S / 2):
            turns += 1
        needed.append(turns)
        stage.look_in_vain()
    assert needed == [8, 16, 32, *[NEEDED_MOST] * 6]
    assert needed[0] == NEEDED_LEAST


def test_successes_make_up_for_looking_in_vain() -> None:
    stage = Stage()
    for _ in range(3):
        stage.turn(1)
        while not stage.turn(QUICK_S / 2):
            pass
        stage.look_in_vain()
    for _ in range(2 * NEEDED_MOST):
        stage.turn(QUICK_S / 2)
    stage.turn(QUICK_S / 2, FEW_REQUESTS + 1)  # after which it sleeps
    stage.warm_up(1)
    assert stage.turn(QUICK_S / 2)


@pytest.mark.parametrize("request_came_meanwhile", [False, True])
def test_being_put_off_by_others_counts_as_often_in_vain(request_came_meanwhile: bool) -> None:
    stage = Stage()
    stage.warm_up()
    assert stage.turn(QUICK_S / 2)
    if request_came_meanwhile:
        assert not stage.turn(2 * PUT_OFF_S)
    else:
        assert not stage.look(2 * PUT_OFF_S)
    tried = [stage.turn(QUICK_S / 2) for _ in range(NEEDED_MOST + 2)]
    assert not any(tried[: NEEDED_MOST - 2])
    assert tried[-1]


def test_threads_at_work_and_a_lone_processor_forbid_it() -> None:
    stage = Stage()
    stage.warm_up()
    stage.work.running = 1
    assert not stage.turn(QUICK_S / 2)
    stage.work.running = 0
    assert stage.turn(QUICK_S / 2)
    stage.work.running = 1
    assert not stage.look()
    alone = Stage(processors=1)
    assert not any(alone.turn(QUICK_S / 2) for _ in range(50))


class Sleepless:
    """Stays awake for a number of looks after each turn, whatever the time."""

    def __init__(self, looks: int) -> None:
        self.looks = looks
        self.left = 0
        self.turns = 0
        self.looked = 0

    def turn_begins(self, lengths: Sequence[int]) -> None:
        self.turns += 1

    def turn_ends(self) -> None:
        self.left = self.looks

    def begins(self) -> bool:
        return True

    def goes_on(self) -> bool:
        self.looked += 1
        self.left -= 1
        return self.left > 0


def backend() -> MemoryBackend:
    found = MemoryBackend()
    found.add("disk", 1 << 20)
    return found


@pytest.mark.parametrize("loop", LOOPS)
def test_the_loop_looks_until_there_is_no_hope_and_then_sleeps(loop: str, tmp_path: Path) -> None:
    vigil = Sleepless(3)
    with serve(backend(), tmp_path, loop, vigil=vigil) as serving, raw(serving.path) as peer:
        peer.open("disk")
        peer.send(request(wire.READ, 0, 1))
        assert peer.error() == (0, b"cookie01")
        peer.receive(1)
        serving.until(lambda: vigil.left <= 0 and vigil.turns > 0)
        turns, looked = vigil.turns, vigil.looked
        assert looked <= 3 * turns
        serving.until(lambda: True)
        assert vigil.looked == looked, "it looks without need"


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_that_never_sleeps_still_serves_everybody(loop: str, tmp_path: Path) -> None:
    vigil = Sleepless(1 << 60)
    with (
        serve(backend(), tmp_path, loop, vigil=vigil) as serving,
        raw(serving.path) as one,
        raw(serving.path) as other,
    ):
        for peer in (one, other):
            peer.open("disk")
        for at in range(50):
            for peer in (one, other):
                peer.send(request(wire.WRITE, at, payload=b"%c" % at))
                assert peer.error() == (0, b"cookie01")
                peer.send(request(wire.READ, at, 1))
                assert peer.error() == (0, b"cookie01")
                assert peer.receive(1) == b"%c" % at
        serving.until(lambda: vigil.looked > 1000)  # a timer runs there, too
        vigil.left = 0  # else the loop of the test would not end
