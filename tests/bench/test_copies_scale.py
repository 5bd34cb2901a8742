"""The pure parts of the measurements of many copies: figures, and the rows made of them."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def steady() -> Any:
    """The scripts import each other as scripts do."""
    folder = str(Path(__file__).parents[2] / "bench")
    sys.path.insert(0, folder)
    try:
        import copies_steady

        return copies_steady
    finally:
        sys.path.remove(folder)


def run(steady: Any, p99: float, took: list[float], disk: int = 0) -> Any:
    return steady.Phase(1000.0, p99, 30.0, len(took), took, disk, 1 << 20)


def test_a_row_has_the_ratio_of_medians(steady: Any) -> None:
    plain = [run(steady, p99, []) for p99 in (100.0, 200.0, 900.0)]
    copied = [run(steady, p99, [0.010, 0.020], 3 << 20) for p99 in (300.0, 400.0, 100.0)]
    title, before, after, ratio, copies, took, disk, memory = steady.row("x", plain, copied, 1)
    assert (title, ratio, copies) == ("x", "1.50", "6")
    assert "0.20 ms" in before and "0.30 ms" in after
    assert took == "15 / 20 ms"
    assert disk == f"{9 * (1 << 20) / (3000 * 4096):.2f}"
    assert memory == "3 MiB"


def test_a_server_that_took_no_copy_has_a_row_too(steady: Any) -> None:
    assert steady.row("x", [run(steady, 1.0, [])], [run(steady, 1.0, [])], 1)[4] == "0"


def test_the_watch_sees_what_keeps_the_loop() -> None:
    folder = str(Path(__file__).parents[2] / "bench")
    sys.path.insert(0, folder)
    try:
        from copies_scale import Watch
    finally:
        sys.path.remove(folder)

    async def keeping() -> None:
        time.sleep(0.02)

    kept = asyncio.run(Watch().over(keeping))
    assert kept.late > 0.015 and kept.wall >= 0.02


def test_bytes_used_are_those_on_the_disk(steady: Any, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    with (tmp_path / "inner" / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    (tmp_path / "full").write_bytes(bytes(1 << 20))
    assert 1 << 20 <= steady.used(tmp_path) < 2 << 20
