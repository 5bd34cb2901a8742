"""Work in real threads."""

from __future__ import annotations

import threading

import pytest

from isochrone.world.work import ThreadWork


async def test_work_runs_beside_the_loop() -> None:
    assert await ThreadWork().run(threading.get_ident) != threading.get_ident()


async def test_its_exceptions_come_back() -> None:
    with pytest.raises(ZeroDivisionError):
        await ThreadWork().run(lambda: 1 / 0)
