"""A backend that is short of room makes changes wait, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import monotonic

import pytest

from isochrone.nbd import wire
from tests.nbd.serving import raw, request, serve
from tests.nbd.test_server import some_backend

BLOCK = 4096


class Pace:
    """Answers in turn what it was given; then there is room."""

    def __init__(self, *answers: tuple[float, bool]) -> None:
        self.answers = list(answers)
        self.asked = 0

    def __call__(self, changing: Callable[[], bool]) -> tuple[float, bool]:
        if not changing():
            return 0.0, False
        self.asked += 1
        return self.answers.pop(0) if self.answers else (0.0, False)


@pytest.mark.parametrize("command", [wire.WRITE, wire.TRIM, wire.WRITE_ZEROES])
def test_changes_wait_as_long_as_they_are_told_to(tmp_path: Path, command: int) -> None:
    pace = Pace((0.001, True), (0.001, True), (0.001, True))
    with serve(some_backend(), tmp_path, pace=pace) as serving, raw(serving.path) as client:
        client.open("disk")
        payload = bytes(BLOCK) if command == wire.WRITE else b""
        client.send(request(command, 0, BLOCK, payload=payload))
        assert client.error() == (0, b"cookie01")
    assert pace.asked >= 4
    assert not pace.answers


def test_a_wait_that_is_not_to_be_repeated_is_not(tmp_path: Path) -> None:
    pace = Pace(*[(0.001, False)] * 1000)
    with serve(some_backend(), tmp_path, pace=pace) as serving, raw(serving.path) as client:
        client.open("disk")
        client.send(request(wire.WRITE, 0, BLOCK, payload=bytes(BLOCK)))
        assert client.error() == (0, b"cookie01")
        assert pace.asked < 10


def test_reads_and_flushes_do_not_wait(tmp_path: Path) -> None:
    pace = Pace(*[(3600.0, True)] * 100)
    with serve(some_backend(), tmp_path, pace=pace) as serving, raw(serving.path) as client:
        client.open("disk")
        client.send(request(wire.READ, 0, BLOCK))
        assert client.error() == (0, b"cookie01")
        assert len(client.receive(BLOCK)) == BLOCK
        client.send(request(wire.FLUSH, 0, 0))
        assert client.error() == (0, b"cookie01")


def test_nobody_waits_with_somebody_else_s_changes(tmp_path: Path) -> None:
    pace = Pace((3600.0, True))
    with (
        serve(some_backend(), tmp_path, pace=pace) as serving,
        raw(serving.path) as writer,
        raw(serving.path) as reader,
    ):
        writer.open("disk")
        reader.open("disk")
        writer.send(request(wire.WRITE, 0, BLOCK, payload=bytes(BLOCK)))
        serving.until(lambda: pace.asked == 1)
        for _ in range(3):
            reader.send(request(wire.READ, 0, BLOCK))
            assert reader.error() == (0, b"cookie01")
            assert len(reader.receive(BLOCK)) == BLOCK
        assert pace.asked == 1, "readers do not wear out the patience of writers"
        assert serving.backend.commits == 0
        reader.send(request(wire.WRITE, 0, BLOCK, payload=bytes(BLOCK)))
        serving.until(lambda: len(serving.door._held) == 2)
        serving.call(serving.door.take_turn)
        assert writer.error() == reader.error() == (0, b"cookie01")


def test_whose_changes_wait_sends_no_more_of_them(tmp_path: Path) -> None:
    """Else what piles up meanwhile, and is taken at once, would be faster than the pace."""
    pace = Pace((3600.0, True))
    with serve(some_backend(), tmp_path, pace=pace) as serving, raw(serving.path) as writer:
        writer.open("disk")
        writer.send(request(wire.WRITE, 0, BLOCK, payload=bytes(BLOCK)))
        serving.until(lambda: [c._reading_paused for c in serving.door._clients] == [True])
        serving.call(serving.door.take_turn)
        assert writer.error() == (0, b"cookie01")
        serving.until(lambda: [c._reading_paused for c in serving.door._clients] == [False])
        writer.send(request(wire.WRITE, 0, BLOCK, payload=bytes(BLOCK)))
        assert writer.error() == (0, b"cookie01")


def test_changes_of_one_export_wait_for_its_mirror_and_nobody_else(tmp_path: Path) -> None:
    asked: list[str] = []

    def pace_export(name: str) -> float:
        asked.append(name)
        return 0.3

    with (
        serve(some_backend(), tmp_path, pace_export=pace_export) as serving,
        raw(serving.path) as writer,
        raw(serving.path) as reader,
    ):
        writer.open("disk")
        reader.open("disk")
        begun = monotonic()
        writer.send(request(wire.WRITE, 0, BLOCK, payload=bytes(BLOCK)))
        reader.send(request(wire.READ, 0, BLOCK))
        assert reader.error() == (0, b"cookie01")
        assert len(reader.receive(BLOCK)) == BLOCK
        assert not asked or monotonic() - begun < 0.3
        assert writer.error() == (0, b"cookie01")
        assert monotonic() - begun >= 0.29
        assert asked == ["disk"]
        # It waits each time, and a client that goes meanwhile is no trouble.
        writer.send(request(wire.WRITE, 0, BLOCK, payload=bytes(BLOCK)))
    assert len(asked) <= 2


def test_a_close_does_not_wait_for_a_mirror(tmp_path: Path) -> None:
    with (
        serve(some_backend(), tmp_path, pace_export=lambda _: 3600.0) as serving,
        raw(serving.path) as writer,
    ):
        writer.open("disk")
        writer.send(request(wire.WRITE, 0, BLOCK, payload=bytes(BLOCK)))
        writer.send(request(wire.READ, 0, BLOCK))
        serving.run(serving.door.close(5))
        assert writer.error() == (0, b"cookie01")
