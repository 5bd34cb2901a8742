"""The copy of the metadata store under a disk that has no room: tried and told in measure."""

from __future__ import annotations

from dataclasses import replace

import apsw
import pytest
from structlog.testing import capture_logs

from isochrone.store import volumes
from isochrone.store.cleaner import Cleaner
from isochrone.store.pool import Limits, Pool
from isochrone.types import BLOCK, KIB, MIB
from isochrone.world.disk import Disk
from tests.store.pools import Rig, device, pattern, put, settle

TIGHT = Limits(
    segment_bytes=128 * KIB,
    garbage_bytes=128 * KIB,
    reserve_bytes=256 * KIB,
    checkpoint_bytes=4 * MIB,
    capacity_bytes=1536 * KIB,
    sweep_nodes=8,
)


class Copies:
    """Stands before the disk: counts, and may refuse."""

    def __init__(self, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tried = 0
        self.error: OSError | None = None
        self._disk: Disk = pool.disk
        self._real = pool.disk.back_up_metadata
        monkeypatch.setattr(pool.disk, "back_up_metadata", self._back_up)

    def _back_up(self, store: apsw.Connection) -> None:
        self.tried += 1
        if self.error is not None:
            raise self.error
        self._real(store)


ALWAYS_PRESSED = replace(TIGHT, reserve_bytes=8 * MIB, capacity_bytes=32 * MIB)


def churn(pool: Pool, checkpoints: int) -> None:
    """Overwrite a little; each checkpoint finds another segment begun."""
    cleaner = Cleaner(pool)
    for n in range(checkpoints):
        for part in range(5):
            device(pool, "a").write(0, memoryview(pattern(5 * n + part, 8 * BLOCK)))
            pool.commit()
        settle(cleaner.round())


def make(limits: Limits) -> Pool:
    pool = Rig(limits=limits).open()
    volumes.create(pool, "a", MIB)
    return pool


def events(said: list[dict[str, object]]) -> list[object]:
    return [entry["event"] for entry in said if entry["log_level"] == "warning"]


def test_a_disk_that_does_not_say_what_is_free_fails_no_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = make(TIGHT)

    def broken() -> int:
        raise OSError(5, "Input/output error")

    put(pool, "a", 0, pattern(1))
    monkeypatch.setattr(pool.disk, "free_bytes", broken)
    with capture_logs() as said:
        settle(pool.checkpoint())
    assert "the metadata store could not be copied" in events(said)
    assert pool._metadata.position().lsn == pool.log.lsn


def test_what_fails_is_said_once_and_not_tried_at_every_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = make(TIGHT)
    copies = Copies(pool, monkeypatch)
    copies.error = OSError(28, "No space left on device")
    with capture_logs() as said:
        churn(pool, 40)
    assert 1 <= copies.tried <= 10
    assert set(events(said)) == {
        "the metadata store could not be copied",
        "space is short: until the next copy no rebuild of it is possible",
    }
    assert len(events(said)) <= 3, "that it failed, that there is no room, that it is given up"


def test_when_there_is_room_again_there_is_a_copy_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make(TIGHT)
    copies = Copies(pool, monkeypatch)
    copies.error = OSError(28, "No space left on device")
    churn(pool, 10)
    assert pool._checkpointer.backup.kept_from is None
    copies.error = None
    with capture_logs() as said:
        churn(pool, 40)
    assert [e["event"] for e in said].count("the metadata store has a copy again") in (1, 2)


def test_without_room_it_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make(TIGHT)
    copies = Copies(pool, monkeypatch)
    monkeypatch.setattr(type(pool.log), "free_bytes", property(lambda log: 400 * KIB))
    monkeypatch.setattr(type(pool._metadata), "bytes_used", lambda metadata: 256 * KIB)
    with capture_logs() as said:
        churn(pool, 10)
    assert copies.tried == 0
    assert events(said).count("the metadata store could not be copied") == 1


def test_under_pressure_a_large_store_is_not_copied_with_every_segment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is written on top stays in proportion to the log it gives back."""
    pool = make(ALWAYS_PRESSED)
    copies = Copies(pool, monkeypatch)
    monkeypatch.setattr(type(pool._metadata), "bytes_used", lambda metadata: 256 * KIB)
    before = pool.log.bytes_appended
    churn(pool, 40)
    assert pool.log.pressed
    appended = pool.log.bytes_appended - before
    assert 1 <= copies.tried <= appended // (2 * 256 * KIB) + 1
